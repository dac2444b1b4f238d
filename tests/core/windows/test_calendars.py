"""The start and end of windows with a calendar and a time zone. tests/properties has their laws."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ratelimit_service.core.model import Calendar, Unit
from ratelimit_service.core.windows.calendars import LONGEST, bounds, civil

MONDAY, THURSDAY, SUNDAY = 0, 3, 6

BERLIN = Calendar("Europe/Berlin")
LORD_HOWE = Calendar("Australia/Lord_Howe")
APIA = Calendar("Pacific/Apia")
UTC_CALENDAR = Calendar()


def instant(text: str) -> int:
    """Return a time with its offset from UTC, or in UTC without one, as seconds since 1970."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def weeks(weekday: int, zone: str = "UTC") -> Calendar:
    return Calendar(zone, weekday=weekday)


def months(day: int, zone: str = "UTC") -> Calendar:
    return Calendar(zone, day=day)


def years(month: int, day: int, zone: str = "UTC") -> Calendar:
    return Calendar(zone, month=month, day=day)


Row = tuple[Unit, int, Calendar, str, str, str]
"""Unit, multiplier, calendar; a moment, and the start and the end of the window that it lies in."""

DAYS: list[Row] = [
    # Berlin sets its clocks forward on 29 March 2026, a day of 23 hours, and back on 25 October, one of 25
    (Unit.DAY, 1, BERLIN, "2026-03-28T23:59:59+01:00", "2026-03-28T00:00+01:00", "2026-03-29T00:00+01:00"),
    (Unit.DAY, 1, BERLIN, "2026-03-29T00:00+01:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
    (Unit.DAY, 1, BERLIN, "2026-03-29T23:59:59+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
    (Unit.DAY, 1, BERLIN, "2026-10-25T02:30+02:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
    (Unit.DAY, 1, BERLIN, "2026-10-25T02:30+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
    # Lord Howe moves its clocks by half an hour: 23½ hours and 24½
    (Unit.DAY, 1, LORD_HOWE, "2026-10-04T12:00+11:00", "2026-10-04T00:00+10:30", "2026-10-05T00:00+11:00"),
    (Unit.DAY, 1, LORD_HOWE, "2026-04-05T12:00+10:30", "2026-04-05T00:00+11:00", "2026-04-06T00:00+10:30"),
    # odd offsets, one of which has seconds
    (Unit.DAY, 1, Calendar("Asia/Kolkata"), "2026-11-21T01:44Z", "2026-11-20T18:30Z", "2026-11-21T18:30Z"),
    (Unit.DAY, 1, Calendar("Asia/Kathmandu"), "2026-11-21T01:44Z", "2026-11-20T18:15Z", "2026-11-21T18:15Z"),
    (Unit.DAY, 1, Calendar("Africa/Monrovia"), "1971-11-21", "1971-11-20T00:44:30", "1971-11-21T00:44:30"),
    # where clocks go from 23:59:59 to 01:00, the day starts at 01:00
    (
        Unit.DAY,
        1,
        Calendar("America/Sao_Paulo"),
        "2018-11-04T01:00-02:00",
        "2018-11-04T01:00-02:00",
        "2018-11-05T00:00-02:00",
    ),
    (
        Unit.DAY,
        1,
        Calendar("America/Sao_Paulo"),
        "2018-11-03T23:59:59-03:00",
        "2018-11-03T00:00-03:00",
        "2018-11-04T01:00-02:00",
    ),
    # at midnight clocks go back to 23:00: the hour before it is there twice, and the day ends after the
    # second
    (
        Unit.DAY,
        1,
        Calendar("America/Sao_Paulo"),
        "2018-02-17T23:30-02:00",
        "2018-02-17T00:00-02:00",
        "2018-02-18T00:00-03:00",
    ),
    # at 01:00 clocks go back to midnight: it is there twice, and the first counts
    (
        Unit.DAY,
        1,
        Calendar("America/Havana"),
        "2026-11-01T00:30-05:00",
        "2026-11-01T00:00-04:00",
        "2026-11-02T00:00-05:00",
    ),
    # at 00:01 clocks go back to 23:01: the new day has begun, and goes on while they show the old one again
    (
        Unit.DAY,
        1,
        Calendar("America/St_Johns"),
        "2010-11-06T23:30-03:30",
        "2010-11-07T00:00-02:30",
        "2010-11-08T00:00-03:30",
    ),
    # clocks go from 23:29:59 to 00:30 here: the jump is not at midnight, but over it
    (
        Unit.DAY,
        1,
        Calendar("America/Toronto"),
        "1919-03-31T00:30-04:00",
        "1919-03-31T00:30-04:00",
        "1919-04-01T00:00-04:00",
    ),
    # Samoa crossed the date line and had no 30 December 2011
    (Unit.DAY, 1, APIA, "2011-12-29T23:59:59-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
    (Unit.DAY, 1, APIA, "2011-12-31T00:00+14:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
    # several days are counted from 1970-01-01, of which 2026-11-21 is day 20,778
    (Unit.DAY, 2, UTC_CALENDAR, "2026-11-21", "2026-11-21", "2026-11-23"),
    (Unit.DAY, 10, UTC_CALENDAR, "2026-11-21", "2026-11-13", "2026-11-23"),
    (Unit.DAY, 2, BERLIN, "2026-03-29T12:00+02:00", "2026-03-28T00:00+01:00", "2026-03-30T00:00+02:00"),
    # a block in which a date is missing is shorter, and the next one is where it was to be
    (Unit.DAY, 7, APIA, "2011-12-31T00:00+14:00", "2011-12-29T00:00-10:00", "2012-01-05T00:00+14:00"),
]

WEEKS: list[Row] = [
    # 2026-11-21 is a Saturday
    (Unit.WEEK, 1, weeks(MONDAY), "2026-11-21", "2026-11-16", "2026-11-23"),
    (Unit.WEEK, 1, weeks(MONDAY), "2026-11-23", "2026-11-23", "2026-11-30"),
    (Unit.WEEK, 1, weeks(SUNDAY), "2026-11-21", "2026-11-15", "2026-11-22"),
    (Unit.WEEK, 1, weeks(SUNDAY), "2026-11-22", "2026-11-22", "2026-11-29"),
    (Unit.WEEK, 1, weeks(THURSDAY), "2026-11-21", "2026-11-19", "2026-11-26"),
    # over the end of a year
    (Unit.WEEK, 1, weeks(MONDAY), "2027-01-01", "2026-12-28", "2027-01-04"),
    # 23 hours in one of its days
    (
        Unit.WEEK,
        1,
        weeks(MONDAY, "Europe/Berlin"),
        "2026-03-29T12:00+02:00",
        "2026-03-23T00:00+01:00",
        "2026-03-30T00:00+02:00",
    ),
    # several are counted from the week that 1970-01-01, a Thursday, is in
    (Unit.WEEK, 2, weeks(MONDAY), "1970-01-01", "1969-12-29", "1970-01-12"),
    (Unit.WEEK, 2, weeks(THURSDAY), "1970-01-01", "1970-01-01", "1970-01-15"),
    (Unit.WEEK, 2, weeks(SUNDAY), "1970-01-01", "1969-12-28", "1970-01-11"),
    (Unit.WEEK, 2, weeks(MONDAY), "2026-11-21", "2026-11-16", "2026-11-30"),
]

MONTHS: list[Row] = [
    (Unit.MONTH, 1, months(1), "2026-11-21", "2026-11-01", "2026-12-01"),
    (Unit.MONTH, 1, months(1), "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
    (Unit.MONTH, 1, months(15), "2026-11-14", "2026-10-15", "2026-11-15"),
    (Unit.MONTH, 1, months(15), "2026-11-15", "2026-11-15", "2026-12-15"),
    (Unit.MONTH, 1, months(15), "2027-01-01", "2026-12-15", "2027-01-15"),
    # a month that is too short begins on its last day, and does not move the next one
    (Unit.MONTH, 1, months(31), "2026-02-27", "2026-01-31", "2026-02-28"),
    (Unit.MONTH, 1, months(31), "2026-02-28", "2026-02-28", "2026-03-31"),
    (Unit.MONTH, 1, months(31), "2028-02-28", "2028-01-31", "2028-02-29"),
    (Unit.MONTH, 1, months(31), "2026-04-30", "2026-04-30", "2026-05-31"),
    (Unit.MONTH, 1, months(30), "2028-03-01", "2028-02-29", "2028-03-30"),
    # leap years: 2000 is one, 2100 is not
    (Unit.MONTH, 1, months(29), "2000-02-29", "2000-02-29", "2000-03-29"),
    (Unit.MONTH, 1, months(29), "2100-02-28", "2100-02-28", "2100-03-29"),
    # in a time zone
    (
        Unit.MONTH,
        1,
        months(1, "Europe/Berlin"),
        "2026-10-31T22:30Z",
        "2026-10-01T00:00+02:00",
        "2026-11-01T00:00+01:00",
    ),
    (
        Unit.MONTH,
        1,
        months(30, "Pacific/Apia"),
        "2012-01-01T00:00+14:00",
        "2011-12-31T00:00+14:00",
        "2012-01-30T00:00+14:00",
    ),
    # quarters; half years that begin on the 15th of January and July
    (Unit.MONTH, 3, months(1), "2026-11-21", "2026-10-01", "2027-01-01"),
    (Unit.MONTH, 3, months(1), "2026-01-01", "2026-01-01", "2026-04-01"),
    (Unit.MONTH, 6, months(15), "2026-01-14", "2025-07-15", "2026-01-15"),
    (Unit.MONTH, 3, months(31), "2026-05-01", "2026-04-30", "2026-07-31"),
    # five months at a time from January 1970, 56 years and 8 months (136 × 5) before
    (Unit.MONTH, 5, months(1), "2026-11-21", "2026-09-01", "2027-02-01"),
]

YEARS: list[Row] = [
    (Unit.YEAR, 1, years(1, 1), "2026-11-21", "2026-01-01", "2027-01-01"),
    (Unit.YEAR, 1, years(1, 1), "2028-12-31T23:59:59", "2028-01-01", "2029-01-01"),
    (Unit.YEAR, 1, years(4, 1), "2026-03-31", "2025-04-01", "2026-04-01"),
    (Unit.YEAR, 1, years(4, 1), "2026-04-01", "2026-04-01", "2027-04-01"),
    (Unit.YEAR, 1, years(2, 29), "2027-02-27", "2026-02-28", "2027-02-28"),
    (Unit.YEAR, 1, years(2, 29), "2028-02-28", "2027-02-28", "2028-02-29"),
    (Unit.YEAR, 1, years(2, 29), "2028-02-29", "2028-02-29", "2029-02-28"),
    (
        Unit.YEAR,
        1,
        years(4, 6, "Europe/London"),
        "2026-04-05T23:30Z",
        "2026-04-06T00:00+01:00",
        "2027-04-06T00:00+01:00",
    ),
    # several are counted from 1970
    (Unit.YEAR, 2, years(1, 1), "2027-11-21", "2026-01-01", "2028-01-01"),
    (Unit.YEAR, 10, years(7, 1), "2030-06-30", "2020-07-01", "2030-07-01"),
]

CLOCKS: list[Row] = [
    # an hour begins where the local one does
    (Unit.HOUR, 1, BERLIN, "2026-11-21T01:44:05Z", "2026-11-21T01:00Z", "2026-11-21T02:00Z"),
    (Unit.HOUR, 1, Calendar("Asia/Kolkata"), "2026-11-21T01:44Z", "2026-11-21T01:30Z", "2026-11-21T02:30Z"),
    (Unit.HOUR, 1, Calendar("Asia/Kathmandu"), "2026-11-21T01:44Z", "2026-11-21T01:15Z", "2026-11-21T02:15Z"),
    (
        Unit.MINUTE,
        15,
        Calendar("Asia/Kolkata"),
        "2026-11-21T01:44Z",
        "2026-11-21T01:30Z",
        "2026-11-21T01:45Z",
    ),
    (Unit.SECOND, 1, BERLIN, "2026-11-21T01:44:05Z", "2026-11-21T01:44:05Z", "2026-11-21T01:44:06Z"),
    (Unit.HOUR, 6, BERLIN, "2026-11-21T01:44Z", "2026-11-21T00:00+01:00", "2026-11-21T06:00+01:00"),
    # the hour that is there twice is two windows, and the one that is missing is none
    (Unit.HOUR, 1, BERLIN, "2026-10-25T02:30+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
    (Unit.HOUR, 1, BERLIN, "2026-10-25T02:30+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
    (Unit.HOUR, 1, BERLIN, "2026-03-29T01:30+01:00", "2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"),
    # 25 hours are four times six and one; 23 are three times six and five
    (Unit.HOUR, 6, BERLIN, "2026-10-25T22:59+01:00", "2026-10-25T17:00+01:00", "2026-10-25T23:00+01:00"),
    (Unit.HOUR, 6, BERLIN, "2026-10-25T23:00+01:00", "2026-10-25T23:00+01:00", "2026-10-26T00:00+01:00"),
    (Unit.HOUR, 6, BERLIN, "2026-03-29T19:00+02:00", "2026-03-29T19:00+02:00", "2026-03-30T00:00+02:00"),
    # 24 hours are not a day
    (Unit.HOUR, 24, BERLIN, "2026-10-25T23:30+01:00", "2026-10-25T23:00+01:00", "2026-10-26T00:00+01:00"),
    (Unit.HOUR, 24, BERLIN, "2026-03-29T23:30+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
    # half an hour is left of a day of 24½ hours
    (Unit.HOUR, 1, LORD_HOWE, "2026-04-05T23:45+10:30", "2026-04-05T23:30+10:30", "2026-04-06T00:00+10:30"),
    # after a jump over midnight, from the jump
    (
        Unit.HOUR,
        12,
        Calendar("America/Sao_Paulo"),
        "2018-11-04T12:59-02:00",
        "2018-11-04T01:00-02:00",
        "2018-11-04T13:00-02:00",
    ),
    # what does not divide 24 hours is counted from 1970-01-01T00:00Z: five hours, seven minutes, 48 hours
    (Unit.HOUR, 5, BERLIN, "2026-11-21T01:44Z", "2026-11-20T22:00Z", "2026-11-21T03:00Z"),
    (Unit.MINUTE, 7, BERLIN, "2026-11-21T01:44:05Z", "2026-11-21T01:42Z", "2026-11-21T01:49Z"),
    (Unit.HOUR, 48, BERLIN, "2026-11-21T01:44Z", "2026-11-21T00:00Z", "2026-11-23T00:00Z"),
]


@pytest.mark.parametrize(
    ("unit", "multiplier", "calendar", "now", "start", "end"), DAYS + WEEKS + MONTHS + YEARS + CLOCKS
)
def test_a_moment_is_in_a_window_of_the_calendar(
    unit: Unit, multiplier: int, calendar: Calendar, now: str, start: str, end: str
) -> None:
    """The start belongs to the window, and the end does not."""
    first, after = instant(start), instant(end)
    assert (first, after) == bounds(unit, multiplier, calendar, instant(now))
    assert (first, after) == bounds(unit, multiplier, calendar, first)
    assert (first, after) == bounds(unit, multiplier, calendar, after - 1)
    assert after == bounds(unit, multiplier, calendar, after)[0]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-21", 24)])
def test_a_day_has_as_many_windows_of_an_hour_as_it_has_hours(day: str, hours: int) -> None:
    """The days are in Berlin: clocks are set forward, back, and not at all."""
    now, end = bounds(Unit.DAY, 1, BERLIN, instant(f"{day}T12:00Z"))
    count = 0
    while now < end:
        now, count = bounds(Unit.HOUR, 1, BERLIN, now)[1], count + 1
    assert (hours, end) == (count, now)


@pytest.mark.parametrize(
    ("unit", "multiplier", "end"),
    [
        # 10,000 years from 1970, as the calendar counts them
        (Unit.DAY, 2**32 - 1, (11970, 1, 1)),
        (Unit.MONTH, 2**32 - 1, (11970, 1, 1)),
        (Unit.YEAR, 2**32 - 1, (11970, 1, 1)),
        (Unit.YEAR, 10_001, (11970, 1, 1)),
        (Unit.YEAR, 9_999, (11969, 1, 1)),
        # its weeks begin on Mondays
        (Unit.WEEK, 2**32 - 1, (11969, 12, 29)),
    ],
)
def test_days_and_longer_are_cut_to_ten_thousand_years(
    unit: Unit, multiplier: int, end: tuple[int, int, int]
) -> None:
    """A request may bring 2^32-1 years, and Python's dates end in 9999."""
    assert end == civil(bounds(unit, multiplier, UTC_CALENDAR, instant("2026-11-21"))[1] // 86_400)


@pytest.mark.parametrize("unit", [Unit.SECOND, Unit.MINUTE, Unit.HOUR])
def test_hours_and_shorter_are_cut_as_without_a_calendar(unit: Unit) -> None:
    """2^32-1 seconds are 136 years, and are not cut. Minutes and hours are cut to 10,000 years."""
    expected = min({Unit.SECOND: 1, Unit.MINUTE: 60, Unit.HOUR: 3_600}[unit] * (2**32 - 1), LONGEST)
    assert (0, expected) == bounds(unit, 2**32 - 1, BERLIN, instant("2026-11-21"))


def test_the_calendar_goes_on_after_the_year_9999() -> None:
    """It repeats every 400 years: the summer of 12026 is that of 2026."""
    now, cycles = instant("2026-07-15T12:00Z"), 25 * 146_097 * 86_400
    start, end = bounds(Unit.MONTH, 1, BERLIN, now)
    assert (start + cycles, end + cycles) == bounds(Unit.MONTH, 1, BERLIN, now + cycles)
    assert (12026, 6, 30) == civil((start + cycles) // 86_400)
