"""Budgets as people see them."""
