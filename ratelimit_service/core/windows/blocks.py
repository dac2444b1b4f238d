"""When a window starts and ends, and its name in counter keys.

Windows without a calendar are upstream's: blocks of a fixed number of seconds since 1970-01-01T00:00Z. So a
week starts on a Thursday, a month has 30 days, and a year has 365. calendars.py has the windows with a
calendar.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import Unit, Window
from . import calendars
from .calendars import CLOCK_UNITS, DAY, LONGEST

SECONDS = {
    **CLOCK_UNITS,
    Unit.DAY: DAY,
    Unit.WEEK: 7 * DAY,
    Unit.MONTH: 30 * DAY,
    Unit.YEAR: 365 * DAY,
}
"""The seconds of one unit without a calendar."""

_MOST_SPANS = 1_000


class Span(NamedTuple):
    """One window: [start, end) in seconds since 1970, and its label in counter keys, `<window>:<start>`."""

    start: int
    end: int
    label: str


def length(window: Window) -> int:
    """Return the length of a window without its calendar, in seconds."""
    return min(SECONDS[window.unit] * window.multiplier, LONGEST)


def span_at(window: Window, now: int) -> Span:
    """Return the span of `window` that contains `now`, in seconds since 1970."""
    if window.calendar is None:
        seconds = length(window)
        start = now // seconds * seconds
        end = start + seconds
    else:
        start, end = calendars.bounds(window.unit, window.multiplier, window.calendar, now)
    return Span(start, end, f"{name(window)}:{_instant(start, window.unit)}")


def name(window: Window) -> str:
    """Return the name of a window in counter keys: `hour`, `15minute`."""
    unit = window.unit.name.lower()
    return unit if window.multiplier == 1 else f"{window.multiplier}{unit}"


def _instant(start: int, unit: Unit) -> str:
    """Return the start as a UTC instant: as short as the unit allows, and as long as needed."""
    day, second = divmod(start, DAY)
    year, month, day_of_month = calendars.civil(day)
    text = f"{year:04d}-{month:02d}-{day_of_month:02d}"
    clock = f"{second // 3_600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    if second == 0 and unit not in CLOCK_UNITS:
        return text
    if second % 3_600 == 0 and unit not in (Unit.MINUTE, Unit.SECOND):
        return f"{text}T{clock[:2]}Z"
    if second % 60 == 0 and unit is not Unit.SECOND:
        return f"{text}T{clock[:5]}Z"
    return f"{text}T{clock}Z"


class Spans:
    """`span_at`, cached: all requests of a moment share their windows.

    The cache is bounded, because requests can bring windows of their own.
    """

    def __init__(self) -> None:
        self._current: dict[Window, Span] = {}

    def at(self, window: Window, now: int) -> Span:
        """Return the span of `window` that contains `now`."""
        span = self._current.get(window)
        if span is None or not span.start <= now < span.end:
            if len(self._current) >= _MOST_SPANS:
                self._current.clear()
            span = self._current[window] = span_at(window, now)
        return span
