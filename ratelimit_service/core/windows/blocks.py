"""When a window starts and ends, and what it is called in a counter key.

Windows without a calendar are upstream's: blocks of a fixed number of seconds counted from 1970-01-01T00:00Z. So a week
starts on a Thursday, a month has 30 days and a year 365. Those with a calendar are in calendars.py.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import Unit, Window
from . import calendars
from .calendars import CLOCK_UNITS, DAY, LONGEST

__all__ = ["LONGEST", "SECONDS", "Span", "Spans", "length", "name", "span_at"]

SECONDS = {
    **CLOCK_UNITS,
    Unit.DAY: DAY,
    Unit.WEEK: 7 * DAY,
    Unit.MONTH: 30 * DAY,
    Unit.YEAR: 365 * DAY,
}
"""The length of one unit without a calendar, in seconds."""

_REMEMBERED = 1_000


class Span(NamedTuple):
    """One window in time: [start, end) in seconds since 1970, and its part of the counter key, `<window>:<start>`."""

    start: int
    end: int
    label: str


def length(window: Window) -> int:
    """How long the window is without its calendar, in seconds."""
    return min(SECONDS[window.unit] * window.multiplier, LONGEST)


def span_at(window: Window, now: int) -> Span:
    """The span of `window` that `now` (seconds since 1970) lies in."""
    if window.calendar is None:
        seconds = length(window)
        start = now // seconds * seconds
        end = start + seconds
    else:
        start, end = calendars.bounds(window.unit, window.multiplier, window.calendar, now)
    return Span(start, end, f"{name(window)}:{_instant(start, window.unit)}")


def name(window: Window) -> str:
    """What the window is called in a key: `hour`, `15minute`."""
    unit = window.unit.name.lower()
    return unit if window.multiplier == 1 else f"{window.multiplier}{unit}"


def _instant(start: int, unit: Unit) -> str:
    """The start as a UTC instant: as short as the unit allows, and longer where it would not say all otherwise."""
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
    """`span_at`, remembered: all requests of a moment share their windows, so each is worked out once.

    What it remembers is bounded, since a request can bring a window of its own.
    """

    def __init__(self) -> None:
        self._current: dict[Window, Span] = {}

    def at(self, window: Window, now: int) -> Span:
        """The span of `window` that `now` lies in."""
        span = self._current.get(window)
        if span is None or not span.start <= now < span.end:
            if len(self._current) >= _REMEMBERED:
                self._current.clear()
            span = self._current[window] = span_at(window, now)
        return span
