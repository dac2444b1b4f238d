"""Windows of a calendar against a clock on the wall that is read minute by minute, in any time zone.

The oracle does not know what an offset, a gap or a repeated hour is. It reads a local clock, remembers the
latest date that this has shown, and walks from date to date.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.model import Calendar, Unit, Window
from ratelimit_service.core.windows.blocks import span_at
from ratelimit_service.core.windows.calendars import LONGEST, bounds

pytestmark = pytest.mark.fuzz

MINUTE, HOUR, DAY = 60, 3_600, 86_400
FIRST, LAST = 10 * DAY, int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""The oracle looks at the days before as well, and at no date before 1970."""

SECONDS = {Unit.SECOND: 1, Unit.MINUTE: MINUTE, Unit.HOUR: HOUR}
ZONES = sorted(files("tzdata").joinpath("zones").read_text().split())

ODD_DATES = {
    "Africa/Casablanca": date(2026, 2, 15),  # back for Ramadan
    "Africa/Monrovia": date(1972, 1, 7),  # from an offset with seconds to UTC, over midnight
    "America/Havana": date(2026, 11, 1),  # midnight twice
    "America/Sao_Paulo": date(2018, 11, 4),  # no midnight
    "America/St_Johns": date(2010, 11, 7),  # midnight and one minute, and then the day before again
    "Antarctica/Troll": date(2026, 3, 29),  # two hours
    "Asia/Kathmandu": date(1986, 1, 1),  # a quarter of an hour, over midnight
    "Australia/Lord_Howe": date(2026, 10, 4),  # half an hour
    "Europe/Berlin": date(2026, 10, 25),
    "Pacific/Apia": date(2011, 12, 30),  # not there
    "Pacific/Kwajalein": date(1993, 8, 21),  # not there
}
"""Zones, and a date on which their clocks were changed in an unusual way."""

LONGEST_SETBACK = 4 * HOUR
"""No clock was set back by more than this since 1970 (Casey in Antarctica: three hours)."""

SLOW_CLOCK = "Africa/Monrovia"
"""The one whose midnight was not on a whole minute of UTC, until 1972."""


def wall(zone: str, now: int) -> datetime:
    return datetime.fromtimestamp(now, ZoneInfo(zone))


def latest_date(zone: str, now: int) -> date:
    """Return the latest date that the clock has shown so far. It may have been set back since."""
    return max(
        wall(zone, then).date() for then in (now, *range(now - now % MINUTE, now - LONGEST_SETBACK, -MINUTE))
    )


def first_instant(zone: str, day: date, near: int) -> int:
    """Return when the clock first showed `day` or a later date, within two days of `near`."""
    then = near - near % MINUTE - 2 * DAY
    while wall(zone, then).date() < day:
        then += HOUR if wall(zone, then + HOUR + LONGEST_SETBACK).date() < day else MINUTE
    while zone == SLOW_CLOCK and wall(zone, then - 1).date() >= day:
        then -= 1
    return then


def begins(unit: Unit, calendar: Calendar, day: date) -> bool:
    """Return whether a day, week, month or year begins on `day`."""
    if unit is Unit.DAY:
        return True
    if unit is Unit.WEEK:
        return day.weekday() == calendar.weekday
    if unit is Unit.YEAR and day.month != calendar.month:
        return False
    last_of_month = (day + timedelta(days=1)).day == 1
    return day.day == calendar.day or (last_of_month and day.day < calendar.day)


def last_beginning(unit: Unit, calendar: Calendar, day: date) -> date:
    while not begins(unit, calendar, day):
        day -= timedelta(days=1)
    return day


def block(unit: Unit, multiplier: int, calendar: Calendar, now: int) -> int:
    """Return the number of the window that contains `now`. Window 0 is the first since 1970."""
    begun = last_beginning(unit, calendar, latest_date(calendar.zone, now))
    if unit is Unit.YEAR:
        number = begun.year - 1970
    elif unit is Unit.MONTH:
        number = 12 * (begun.year - 1970) + begun.month - 1
    else:
        days = (begun - last_beginning(unit, calendar, date(1970, 1, 1))).days
        number = days // 7 if unit is Unit.WEEK else days
    return number // multiplier


def next_change(zone: str, now: int) -> int:
    """Return the first second with another offset from UTC, or one after 400 days without."""

    def same(then: int) -> bool:
        return wall(zone, then).utcoffset() == wall(zone, now).utcoffset()

    before = after = now
    while after < now + 400 * DAY and same(after):
        before, after = after, after + 20 * DAY
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if same(middle) else (before, middle)
    return after


@st.composite
def moments(draw: st.DrawFn, zone: str) -> int:
    """Return any instant, one close to a clock change in `zone`, or one close to its odd date."""
    kind = draw(st.integers(0, 2))
    if kind == 2 and zone in ODD_DATES:
        odd = datetime.combine(ODD_DATES[zone], time(), UTC)
        return int(odd.timestamp()) + draw(st.integers(-40 * HOUR, 40 * HOUR))
    now = draw(st.integers(FIRST, LAST))
    if kind > 0:
        now = next_change(zone, now) + draw(
            st.one_of(st.sampled_from([-1, 0]), st.integers(-26 * HOUR, 26 * HOUR))
        )
    return min(now, LAST)


zones = st.one_of(st.sampled_from(ZONES), st.sampled_from(sorted(ODD_DATES)))
calendars = st.builds(Calendar, zones, st.integers(0, 6), st.integers(1, 31), st.integers(1, 12))
multipliers = st.one_of(st.integers(1, 31), st.sampled_from([1, 6, 8, 12, 24, 60, 90, 360, 720, 1_440]))
huge = st.one_of(multipliers, st.integers(1, 2**32 - 1), st.just(2**32 - 1))
anywhen = st.one_of(st.integers(0, LAST), st.integers(-(10**15), 10**15))
units = st.sampled_from([unit for unit in Unit if unit is not Unit.UNKNOWN])


@given(
    st.data(), st.sampled_from([Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR]), st.integers(1, 12), calendars
)
def test_windows_begin_with_the_dates_of_the_wall_clock(
    data: st.DataObject, unit: Unit, multiplier: int, calendar: Calendar
) -> None:
    """A window begins at the second at which the wall clock first shows the date."""
    now = data.draw(moments(calendar.zone))
    start, end = bounds(unit, multiplier, calendar, now)
    assert start <= now < end
    number = block(unit, multiplier, calendar, now)
    if start > FIRST:
        assert (number - 1, number) == tuple(
            block(unit, multiplier, calendar, then) for then in (start - 1, start)
        )
    if end < LAST:
        assert (number, number + 1) == tuple(
            block(unit, multiplier, calendar, then) for then in (end - 1, end)
        )


@given(st.data(), st.sampled_from(list(SECONDS)), multipliers, zones)
def test_hours_and_shorter_are_counted_from_the_first_second_of_a_date(
    data: st.DataObject, unit: Unit, multiplier: int, zone: str
) -> None:
    """This holds if they divide 24 hours. Otherwise, they are counted from 1970."""
    now, seconds = data.draw(moments(zone)), SECONDS[unit] * multiplier
    if 24 * HOUR % seconds:
        day, day_end = 0, LAST + LONGEST
    else:
        today = latest_date(zone, now)
        day, day_end = (first_instant(zone, today + timedelta(days=more), now) for more in (0, 1))
    for then in (now, day, day_end - 1) if day else (now,):
        start = then - (then - day) % seconds
        assert (start, min(start + seconds, day_end)) == bounds(unit, multiplier, Calendar(zone), then)


@given(units, huge, calendars, anywhen)
def test_windows_leave_no_gap_and_do_not_overlap(
    unit: Unit, multiplier: int, calendar: Calendar, now: int
) -> None:
    """This holds for any window of a request, and any time."""
    start, end = bounds(unit, multiplier, calendar, now)
    assert start <= now < end <= start + LONGEST
    assert (
        (start, end)
        == bounds(unit, multiplier, calendar, start)
        == bounds(unit, multiplier, calendar, end - 1)
    )
    assert start == bounds(unit, multiplier, calendar, start - 1)[1]
    assert end == bounds(unit, multiplier, calendar, end)[0]


@given(units, multipliers, st.one_of(st.none(), calendars), st.integers(FIRST, LAST))
def test_a_label_has_the_start_of_its_window(
    unit: Unit, multiplier: int, calendar: Calendar | None, now: int
) -> None:
    """It is exact to the second, so that windows with different starts never share a counter."""
    span = span_at(Window(unit, multiplier, calendar), now)
    name, _, text = span.label.partition(":")
    moment = datetime.fromisoformat(text)
    start = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    assert (f"{multiplier if multiplier > 1 else ''}{unit.name.lower()}", span.start) == (
        name,
        start.timestamp(),
    )


@given(units, huge, calendars, anywhen)
def test_the_next_window_has_another_label(unit: Unit, multiplier: int, calendar: Calendar, now: int) -> None:
    """This holds before the year 1 and after 9999, too."""
    window = Window(unit, multiplier, calendar)
    span = span_at(window, now)
    assert span.label != span_at(window, span.end).label
    assert span.label == span_at(window, span.end - 1).label


@given(st.sampled_from([*SECONDS, Unit.DAY]), st.integers(1, 100), st.integers(FIRST, LAST))
def test_in_utc_days_and_shorter_are_the_same_without_a_calendar(
    unit: Unit, multiplier: int, now: int
) -> None:
    """So a limit keeps its use when it gets the calendar of UTC."""
    assert span_at(Window(unit, multiplier), now) == span_at(Window(unit, multiplier, Calendar()), now)
