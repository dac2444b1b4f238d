"""When windows of `requests_per_unit` start and end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ratelimit_service.core.model import Unit, Window
from ratelimit_service.core.windows import LONGEST, Spans, span_at


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("window", "now", "start", "end"),
    [
        (Window(Unit.SECOND), "2026-11-21T01:44:05", "2026-11-21T01:44:05", "2026-11-21T01:44:06"),
        (Window(Unit.MINUTE), "2026-11-21T01:44:59", "2026-11-21T01:44", "2026-11-21T01:45"),
        (Window(Unit.HOUR), "2026-11-21T01:00", "2026-11-21T01:00", "2026-11-21T02:00"),
        (Window(Unit.DAY), "2026-11-21T23:59:59", "2026-11-21", "2026-11-22"),
        # a week starts on Thursday, a month has 30 days and a year 365, all counted from 1970
        (Window(Unit.WEEK), "2026-11-21", "2026-11-19", "2026-11-26"),
        (Window(Unit.MONTH), "1970-02-01", "1970-01-31", "1970-03-02"),
        (Window(Unit.YEAR), "1972-12-31", "1972-12-31", "1973-12-31"),
        # multiples are counted from 1970 as well
        (Window(Unit.MINUTE, 15), "2026-11-21T01:44", "2026-11-21T01:30", "2026-11-21T01:45"),
        (Window(Unit.HOUR, 6), "2026-11-21T13:00", "2026-11-21T12:00", "2026-11-21T18:00"),
    ],
)
def test_a_moment_lies_in_a_window(window: Window, now: str, start: str, end: str) -> None:
    """Blocks of whole seconds since 1970."""
    span = span_at(window, instant(now))
    assert (instant(start), instant(end)) == (span.start, span.end)


def test_no_window_is_longer_than_a_duration_can_say() -> None:
    """A request may bring 2^32-1 years."""
    assert LONGEST == span_at(Window(Unit.YEAR, 2**32 - 1), 0).end


def test_remembered_spans_are_those_worked_out_anew() -> None:
    """At the last second of an hour, the first of the next, and back again."""
    spans, hour = Spans(), Window(Unit.HOUR)
    edge = instant("2026-11-21T02:00")
    for now in (edge - 1, edge, edge + 1, edge - 1):
        assert span_at(hour, now) == spans.at(hour, now)


def test_remembering_is_bounded() -> None:
    """Windows that requests bring with them are forgotten again."""
    spans = Spans()
    for multiplier in range(1, 5_000):
        spans.at(Window(Unit.SECOND, multiplier), 0)
    assert len(spans._current) <= 1_000
