"""Seeing budgets while the service runs: lists of them, explanations, refusals, and the replicas."""
