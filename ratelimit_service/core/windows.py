"""When a window starts and ends, and what it is called in a counter key.

Windows of `requests_per_unit` are upstream's: blocks of a fixed number of seconds counted from 1970-01-01T00:00Z. So a
week starts on a Thursday, a month has 30 days and a year 365.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from .model import Unit, Window

SECONDS = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3_600,
    Unit.DAY: 86_400,
    Unit.WEEK: 604_800,
    Unit.MONTH: 2_592_000,
    Unit.YEAR: 31_536_000,
}
"""The length of one unit, in seconds."""

LONGEST = 315_576_000_000
"""The longest window in seconds: 10,000 years, which is the longest duration that protobuf can say."""

_REMEMBERED = 1_000


class Span(NamedTuple):
    """One window in time: [start, end) in seconds since 1970, and its part of the counter key, `<window>:<start>`."""

    start: int
    end: int
    label: str


def length(window: Window) -> int:
    """How long the window is, in seconds."""
    return min(SECONDS[window.unit] * window.multiplier, LONGEST)


def span_at(window: Window, now: int) -> Span:
    """The span of `window` that `now` (seconds since 1970) lies in."""
    seconds = length(window)
    start = now // seconds * seconds
    return Span(start, start + seconds, f"{name(window)}:{_instant(start, window.unit)}")


def name(window: Window) -> str:
    """What the window is called in a key: `hour`, `15minute`."""
    unit = window.unit.name.lower()
    return unit if window.multiplier == 1 else f"{window.multiplier}{unit}"


def _instant(start: int, unit: Unit) -> str:
    """The start as a UTC instant, as short as the unit allows."""
    moment = datetime.fromtimestamp(start, UTC)
    if unit is Unit.SECOND:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    if unit is Unit.MINUTE:
        return moment.strftime("%Y-%m-%dT%H:%MZ")
    if unit is Unit.HOUR:
        return moment.strftime("%Y-%m-%dT%HZ")
    return moment.strftime("%Y-%m-%d")


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
