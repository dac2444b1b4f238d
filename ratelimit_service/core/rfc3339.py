"""Moments as RFC 3339 writes them."""

from __future__ import annotations

from datetime import UTC, datetime

LAST = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second of Python's datetime."""


def moment(seconds: float) -> str:
    """Return a time in seconds since 1970 as `2026-11-28T06:45:00Z`; one after `LAST` as `LAST`."""
    return datetime.fromtimestamp(min(int(seconds), LAST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
