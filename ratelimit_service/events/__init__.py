"""Sends webhooks about budgets."""
