"""Observability: metrics, logs, and reports of thresholds."""
