"""Budgets as people see them: what a bucket has used, what it may use, and why."""
