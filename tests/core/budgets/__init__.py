"""Tests of the views of budgets."""
