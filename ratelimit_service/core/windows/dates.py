"""Dates that people write, as the seconds at which they begin."""

from __future__ import annotations

from datetime import UTC, datetime

from ..errors import InvalidRequest
from ..model import Calendar, Unit
from . import calendars


def start_of(text: str, zone: str) -> int:
    """Return the second at which a date begins in a time zone, or that of a moment in RFC 3339. Raises
    InvalidRequest.
    """
    wrong = InvalidRequest(f"{text!r} is not a date: give one such as 2026-11-01, or 2026-11-01T00:00:00Z")
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return int(found.timestamp())
        if len(text) != 10:
            raise wrong
        noon = int(found.replace(hour=12, tzinfo=UTC).timestamp())
        # The day of the zone that has the noon of this date; its first instant need not be midnight.
        for around in (noon, noon - 43_200, noon + 43_200):
            start, _ = calendars.bounds(Unit.DAY, 1, Calendar(zone), around)
            if calendars.local_time(zone, start)[:10] == text:
                return start
    except (ValueError, OverflowError):
        raise wrong from None
    raise wrong
