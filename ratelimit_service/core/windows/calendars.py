"""When a window that follows a calendar and a time zone starts and ends.

day × N
    Local dates, in blocks counted from 1970-01-01. A day starts at the first instant of its date. That is
    midnight, or the first of two midnights if the clock is set back over midnight. If the clock is set
    forward over midnight or a whole date (Samoa had no 2011-12-30), it is the instant of the change. So a
    day has 24 hours, or 23, 25, or 23½.
week × N
    Begins on `weekday`, in blocks counted from the week of 1970-01-01.
month × N
    Begins on `day`, or on the last day of a shorter month (31: January 31, February 28 or 29), in blocks
    counted from January 1970: 3 months are quarters.
year × N
    Begins on `day` of `month`, clamped in the same way (February 29 is the 28th in most years), in blocks
    counted from 1970.
hour, minute, second × N
    If the window divides 24 hours: the time that has passed since the local day began. The last window ends
    with the day. A day of 25 hours has 25 windows of an hour, or four of six hours and one of an hour.
    If it does not (5 hours, 7 minutes): blocks since 1970-01-01T00:00Z in any zone, as without a calendar.

The laws: the windows of a calendar leave no gap and do not overlap. None is longer than LONGEST. Every
instant is in a window, however far away it is. Days and longer units are cut to 10,000 years, whatever the
multiplier. Python's dates end in 9999, but the calendar, its weekdays and the rules of the time zones repeat
every 400 years, which gives later dates.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from zoneinfo import ZoneInfo

from ..model import Calendar, Unit

CLOCK_UNITS = {Unit.SECOND: 1, Unit.MINUTE: 60, Unit.HOUR: 3_600}
"""The seconds of the units that divide a day."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""Their names, by Calendar.weekday."""

DAY = 86_400
"""The seconds of a day without a clock change."""

LONGEST = 315_576_000_000
"""The longest window in seconds: 10,000 years, the longest duration of protobuf."""

_CYCLE_DAYS = 146_097
"""The calendar repeats after 400 years, weekdays included."""
_CYCLE = _CYCLE_DAYS * DAY
_MOST_DAYS = 25 * _CYCLE_DAYS
_MOST_MONTHS = 120_000

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are relative to it, too
_EPOCH_ORDINAL = _EPOCH.toordinal()
_THURSDAY = 3
"""The weekday of 1970-01-01."""

# Keeps every zone in use. ZoneInfo's own cache keeps eight, and would read the file of the ninth again.
_zone = cache(ZoneInfo)


def bounds(unit: Unit, multiplier: int, calendar: Calendar, now: int) -> tuple[int, int]:
    """Return the window that contains `now`: start ≤ now < end, all in seconds since 1970.

    zoneinfo must know the zone of `calendar`.
    """
    if unit in CLOCK_UNITS:
        return _clock_bounds(CLOCK_UNITS[unit] * multiplier, calendar, now)
    zone = _zone(calendar.zone)
    today = _local_day(zone, now)
    if unit in (Unit.DAY, Unit.WEEK):
        first = -((_THURSDAY - calendar.weekday) % 7) if unit is Unit.WEEK else 0
        size = min(multiplier * (7 if unit is Unit.WEEK else 1), _MOST_DAYS)
        start = today - (today - first) % size
        end = start + size
    else:
        first = calendar.month - 1 if unit is Unit.YEAR else 0
        size = min(multiplier * (12 if unit is Unit.YEAR else 1), _MOST_MONTHS)
        month = _month_of(today, calendar.day)
        month -= (month - first) % size
        start, end = _month_start(month, calendar.day), _month_start(month + size, calendar.day)
    return _day_start(zone, start), _day_start(zone, end)


def civil(day: int) -> tuple[int, int, int]:
    """Return year, month and day of a day that is counted from 1970-01-01."""
    cycles, rest = divmod(day, _CYCLE_DAYS)
    found = date.fromordinal(_EPOCH_ORDINAL + rest)
    return found.year + 400 * cycles, found.month, found.day


def local_time(zone: str, moment: int) -> str:
    """Return `moment` as local time with the offset from UTC: `2026-11-22T00:00:00+01:00`.

    zoneinfo must know the zone, and the moment must be in the range of Python's dates.
    """
    return datetime.fromtimestamp(moment, _zone(zone)).isoformat()


def _clock_bounds(seconds: int, calendar: Calendar, now: int) -> tuple[int, int]:
    if DAY % seconds:
        seconds = min(seconds, LONGEST)
        start = now // seconds * seconds
        return start, start + seconds
    zone = _zone(calendar.zone)
    today = _local_day(zone, now)
    start = now - (now - _day_start(zone, today)) % seconds
    return start, min(start + seconds, _day_start(zone, today + 1))


def _month_of(day: int, starts_on: int) -> int:
    """Return the month of `day` if months begin on `starts_on`. Month 0 begins in January 1970."""
    year, month, _ = civil(day)
    index = (year - 1970) * 12 + month - 1
    return index if day >= _month_start(index, starts_on) else index - 1


def _month_start(index: int, starts_on: int) -> int:
    """Return the day on which a month begins, counted from 1970-01-01."""
    years, month = divmod(index, 12)
    cycles, years = divmod(years, 400)
    year, month = 1970 + years, month + 1
    first = date(year, month, min(starts_on, monthrange(year, month)[1]))
    return first.toordinal() - _EPOCH_ORDINAL + cycles * _CYCLE_DAYS


def _local_day(zone: ZoneInfo, now: int) -> int:
    """Return the local day of `now`, counted from 1970-01-01."""
    day = _wall(zone, now) // DAY
    # If the clock was set back over midnight, it shows yesterday again although today has begun.
    while now >= _day_start(zone, day + 1):
        day += 1
    return day


def _day_start(zone: ZoneInfo, day: int) -> int:
    """Return the first instant at which the local clock shows this day or, if it skips it, a later one."""
    midnight = day * DAY
    start = midnight - _wall_offset(zone, midnight, fold=0)
    if _wall(zone, start) == midnight:
        return start
    # This midnight does not exist, so find the change. In zoneinfo, `start` is after it, and `early` before
    # it.
    early = midnight - _wall_offset(zone, midnight, fold=1)
    return early + bisect_left(range(early, start), midnight, key=partial(_wall, zone))


def _wall(zone: ZoneInfo, instant: int) -> int:
    """Return the local time at `instant`, in seconds since the local 1970-01-01 00:00."""
    return instant + _seconds(_moment(instant).replace(tzinfo=UTC).astimezone(zone).utcoffset())


def _wall_offset(zone: ZoneInfo, wall: int, fold: int) -> int:
    """Return the offset from UTC at the local time `wall`: its first occurrence, or its second (`fold` 1)."""
    return _seconds(_moment(wall).replace(tzinfo=zone, fold=fold).utcoffset())


def _seconds(offset: timedelta | None) -> int:
    assert offset is not None  # every ZoneInfo has one
    return offset // timedelta(seconds=1)


def _moment(seconds: int) -> datetime:
    """Return `seconds` since 1970 as a datetime, moved by whole cycles into the years 1170 to 2769.

    No zone changed its clock before the end of the first of these cycles. From the last one on, the rules
    repeat.
    """
    cycle = seconds // _CYCLE
    return _EPOCH + timedelta(seconds=seconds + (min(max(cycle, -2), 1) - cycle) * _CYCLE)
