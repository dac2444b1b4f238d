"""Moments as RFC 3339 writes them."""

from __future__ import annotations

from datetime import UTC, datetime

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the first and the last second of Python's datetime."""


def moment(seconds: float) -> str:
    """Return a time in seconds since 1970 as `2026-11-28T06:45:00Z`, and `FIRST` or `LAST` beyond these."""
    # Not strftime: its %Y has fewer than four digits before the year 1000.
    return datetime.fromtimestamp(max(FIRST, min(int(seconds), LAST)), UTC).isoformat()[:-6] + "Z"
