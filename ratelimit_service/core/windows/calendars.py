"""When a window that follows a calendar and a time zone starts and ends.

day × N     Local dates; N > 1 in blocks counted from 1970-01-01. A day starts at the first instant of its date: at
            midnight; at the first of two where the clock is set back over midnight; where it is set forward over it,
            or over a whole date (Samoa had no 2011-12-30), at the jump. So a day has 24 hours, or 23, or 25, or 23½.
week × N    Begins on `weekday`; N > 1 in blocks counted from the week that 1970-01-01 is in.
month × N   Begins on `day`, or on the last day of a month that is shorter (31: January 31, February 28 or 29);
            N > 1 in blocks counted from January 1970: 3 are quarters.
year × N    Begins on `day` of `month`, in the same way (February 29 is the 28th in most years); N > 1 in blocks
            counted from 1970.
hour, minute, second × N
            Where they divide 24 hours: time that passed since the local day began, and the last one ends with the day.
            A day of 25 hours has 25 windows of an hour; of six hours it has four, and one of an hour.
            Where they do not (5 hours, 7 minutes): blocks since 1970-01-01T00:00Z, whatever the zone, as without a
            calendar.

The laws: the windows of a calendar leave no gap and do not overlap; none is longer than LONGEST; there is one for every
instant, however far. Days and longer are cut to 10,000 years, whatever the multiplier. Python's dates end in 9999, but
the calendar, its weekdays and the rules of the time zones repeat every 400 years, and that is how later ones are found.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from zoneinfo import ZoneInfo

from ..model import Calendar, Unit

CLOCK_UNITS = {Unit.SECOND: 1, Unit.MINUTE: 60, Unit.HOUR: 3_600}
"""The units that divide a day, in seconds."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""Their names, by Calendar.weekday."""

DAY = 86_400
"""The seconds of a day without a clock change."""

LONGEST = 315_576_000_000
"""The longest window in seconds: 10,000 years, which is the longest duration that protobuf can say."""

_CYCLE_DAYS = 146_097
"""After 400 years the calendar repeats, weekdays included."""
_CYCLE = _CYCLE_DAYS * DAY
_MOST_DAYS = 25 * _CYCLE_DAYS
_MOST_MONTHS = 120_000

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - also stands for local times
_EPOCH_ORDINAL = _EPOCH.toordinal()
_THURSDAY = 3
"""The weekday of 1970-01-01."""

# Holds on to every zone in use: ZoneInfo's own cache lets go of the ninth, and would read its file again.
_zone = cache(ZoneInfo)


def bounds(unit: Unit, multiplier: int, calendar: Calendar, now: int) -> tuple[int, int]:
    """The window that `now` lies in: start ≤ now < end, all in seconds since 1970.

    The zone of `calendar` must be one that zoneinfo knows.
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
    """Year, month and day of a day that is counted from 1970-01-01."""
    cycles, rest = divmod(day, _CYCLE_DAYS)
    found = date.fromordinal(_EPOCH_ORDINAL + rest)
    return found.year + 400 * cycles, found.month, found.day


def local_time(zone: str, moment: int) -> str:
    """What clocks in `zone` show at `moment`, with their distance from UTC: `2026-11-22T00:00:00+01:00`.

    The zone must be one that zoneinfo knows, the moment one of Python's dates.
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
    """The month that `day` counts in where months begin on `starts_on`: 0 is the one that begins in January 1970."""
    year, month, _ = civil(day)
    index = (year - 1970) * 12 + month - 1
    return index if day >= _month_start(index, starts_on) else index - 1


def _month_start(index: int, starts_on: int) -> int:
    """The day, counted from 1970-01-01, on which a month begins."""
    years, month = divmod(index, 12)
    cycles, years = divmod(years, 400)
    year, month = 1970 + years, month + 1
    first = date(year, month, min(starts_on, monthrange(year, month)[1]))
    return first.toordinal() - _EPOCH_ORDINAL + cycles * _CYCLE_DAYS


def _local_day(zone: ZoneInfo, now: int) -> int:
    """The local day that `now` is in, counted from 1970-01-01."""
    day = _wall(zone, now) // DAY
    # Set back over midnight, the clock shows yesterday again though today has begun.
    while now >= _day_start(zone, day + 1):
        day += 1
    return day


def _day_start(zone: ZoneInfo, day: int) -> int:
    """The first instant at which the local clock shows this day, or a later one where it jumps over this one."""
    midnight = day * DAY
    start = midnight - _wall_offset(zone, midnight, fold=0)
    if _wall(zone, start) == midnight:
        return start
    # There is no such midnight: look for the jump. As zoneinfo has it, `start` comes after it, and `early` before.
    early = midnight - _wall_offset(zone, midnight, fold=1)
    return early + bisect_left(range(early, start), midnight, key=partial(_wall, zone))


def _wall(zone: ZoneInfo, instant: int) -> int:
    """What the local clock shows at `instant`, as seconds since it showed 1970-01-01 00:00."""
    return instant + _seconds(_moment(instant).replace(tzinfo=UTC).astimezone(zone).utcoffset())


def _wall_offset(zone: ZoneInfo, wall: int, fold: int) -> int:
    """How far the local clock is ahead of UTC when it shows `wall`, for the first time or (`fold` 1) the second."""
    return _seconds(_moment(wall).replace(tzinfo=zone, fold=fold).utcoffset())


def _seconds(offset: timedelta | None) -> int:
    assert offset is not None  # every ZoneInfo has one
    return offset // timedelta(seconds=1)


def _moment(seconds: int) -> datetime:
    """`seconds` since 1970 as a datetime, moved by whole cycles into the years 1170 to 2769.

    No zone changed its clock before the earliest of these cycles ended, and from the last on all do as they did before.
    """
    cycle = seconds // _CYCLE
    return _EPOCH + timedelta(seconds=seconds + (min(max(cycle, -2), 1) - cycle) * _CYCLE)
