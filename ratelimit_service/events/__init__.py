"""Tells people by webhook what happens to budgets."""
