"""Inspects the running service for operators: lists of budgets, explanations, refusals, and the replicas."""
