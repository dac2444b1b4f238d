"""Spans of calls and of batches for OpenTelemetry (TRACING_ENABLED); nothing here is imported while it is
off.
"""
