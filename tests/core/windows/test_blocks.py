"""The start and end of windows without a calendar, and the labels of all windows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ratelimit_service.core.model import Calendar, Unit, Window
from ratelimit_service.core.windows.blocks import Spans, span_at
from ratelimit_service.core.windows.calendars import LONGEST


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
def test_a_moment_is_in_a_window(window: Window, now: str, start: str, end: str) -> None:
    """Windows are blocks of whole seconds since 1970."""
    span = span_at(window, instant(now))
    assert (instant(start), instant(end)) == (span.start, span.end)


def test_no_window_is_longer_than_a_duration_can_express() -> None:
    """A request may bring 2^32-1 years."""
    assert LONGEST == span_at(Window(Unit.YEAR, 2**32 - 1), 0).end


@pytest.mark.parametrize(
    ("window", "now", "label"),
    [
        # in UTC, and without a calendar, as short as the unit allows
        (Window(Unit.SECOND), "2026-11-21T01:44:05", "second:2026-11-21T01:44:05Z"),
        (Window(Unit.MINUTE, 15), "2026-11-21T01:44:05", "15minute:2026-11-21T01:30Z"),
        (Window(Unit.HOUR, 6), "2026-11-21T01:44:05", "6hour:2026-11-21T00Z"),
        (Window(Unit.DAY), "2026-11-21T01:44:05", "day:2026-11-21"),
        (Window(Unit.DAY, 1, Calendar()), "2026-11-21T01:44:05", "day:2026-11-21"),
        (Window(Unit.WEEK, 1, Calendar()), "2026-11-21T01:44:05", "week:2026-11-16"),
        (Window(Unit.MONTH, 3, Calendar()), "2026-11-21T01:44:05", "3month:2026-10-01"),
        (Window(Unit.YEAR, 1, Calendar(month=4)), "2026-11-21T01:44:05", "year:2026-04-01"),
        # and as long as the offset demands: whole hours, minutes, seconds
        (Window(Unit.DAY, 1, Calendar("Europe/Berlin")), "2026-11-21T01:44:05", "day:2026-11-20T23Z"),
        (Window(Unit.MONTH, 1, Calendar("Asia/Kolkata")), "2026-11-21T01:44:05", "month:2026-10-31T18:30Z"),
        (Window(Unit.HOUR, 1, Calendar("Asia/Kolkata")), "2026-11-21T01:44:05", "hour:2026-11-21T01:30Z"),
        (Window(Unit.HOUR, 1, Calendar("Europe/Berlin")), "2026-11-21T01:44:05", "hour:2026-11-21T01Z"),
        (Window(Unit.DAY, 1, Calendar("Africa/Monrovia")), "1971-11-21", "day:1971-11-20T00:44:30Z"),
        (Window(Unit.MINUTE, 1, Calendar("Africa/Monrovia")), "1971-11-21", "minute:1971-11-20T23:59:30Z"),
        # Samoa is at +13:00 and a midnight there is at 11:00Z, but when it had summer time it was at 10:00Z
        (Window(Unit.YEAR, 1, Calendar("Pacific/Apia")), "2020-06-01", "year:2019-12-31T10Z"),
        (Window(Unit.YEAR, 1, Calendar("Pacific/Apia")), "2026-06-01", "year:2025-12-31T11Z"),
    ],
)
def test_a_label_has_the_window_and_its_start(window: Window, now: str, label: str) -> None:
    """The start is in UTC, in any time zone."""
    assert label == span_at(window, instant(now)).label


def test_cached_spans_are_current() -> None:
    """The clock is at the last second of an hour, at the first of the next, and back again."""
    spans, hour = Spans(), Window(Unit.HOUR)
    edge = instant("2026-11-21T02:00")
    for now in (edge - 1, edge, edge + 1, edge - 1):
        assert span_at(hour, now) == spans.at(hour, now)


def test_cached_spans_end_with_the_calendar_window() -> None:
    """The clock is at the last second of a day of 23 hours, and of the following day of 24 hours."""
    spans, day = Spans(), Window(Unit.DAY, 1, Calendar("Europe/Berlin"))
    start = instant("2026-03-28T23:00")
    ends = [spans.at(day, start + hours * 3_600 - 1).end for hours in (1, 23, 24, 47, 48)]
    first, second, third = start + 23 * 3_600, start + 47 * 3_600, start + 71 * 3_600
    assert [first, first, second, second, third] == ends


def test_the_days_of_two_calendars_are_cached_separately() -> None:
    """Windows with different calendars are different."""
    spans, now = Spans(), instant("2026-11-21T01:44:05")
    windows = [Window(Unit.DAY, 1, calendar) for calendar in (None, Calendar("Asia/Tokyo"), Calendar())]
    assert [span_at(window, now) for window in windows] == [spans.at(window, now) for window in windows]


def test_the_cache_is_bounded() -> None:
    """Requests may bring any number of windows."""
    spans = Spans()
    for multiplier in range(1, 5_000):
        spans.at(Window(Unit.SECOND, multiplier), 0)
    assert len(spans._current) <= 1_000
