"""Moments as RFC 3339 writes them."""

from __future__ import annotations

import pytest

from ratelimit_service.core.rfc3339 import FIRST, LAST, moment


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_249_200.9, "2026-11-21T08:20:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (FIRST, "0001-01-01T00:00:00Z"),
        (FIRST - 50_400, "0001-01-01T00:00:00Z"),
        (LAST, "9999-12-31T23:59:59Z"),
        (LAST + 50_400, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_moment_has_a_year_of_four_digits(seconds: float, expected: str) -> None:
    """Also one before the year 1000, and none is beyond the calendar: a time zone can lead there."""
    assert expected == moment(seconds)
