"""Budgets as people see them: the use of a bucket, its limits, and the reasons for them."""
