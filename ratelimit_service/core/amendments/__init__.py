"""Amendments: limits that are changed while the service runs."""
