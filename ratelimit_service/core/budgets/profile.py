"""The shape of a week: how much a bucket used in each hour of earlier weeks, from its ledger.

learn(spent, end) -> Profile | None        from the four weeks before `end`
profile.use(first, last) -> float          what the earlier weeks used between two moments
profile.moment(first, use) -> float        when so much is used, counted from `first`

A profile is a clock that runs fast in busy hours and slowly at night. By this clock, traffic with a rhythm is
steady, so the level of a window is a rate by it: 1 if the window is used as the earlier weeks were, 2 if
twice as fast (burning.py).

| whole days with a ledger | profile |
|---|---|
| at least 7 | the mean of each hour of the week, over the last one to four whole weeks |
| 1 to 6, by the hour | the mean of each hour of the day, on all days |
| fewer | none |

Hours are those of UTC, so office hours are an hour off for up to four weeks after a clock change.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Final

HOUR, DAY = 3_600, 86_400
WEEK: Final = 7 * DAY
_HOURS: Final = 168

WEEKS: Final = 4
"""The weeks that a profile is learned from: with more it would follow changes too late."""

KEPT_DAYS: Final = WEEKS * 7 + 1

SHORTEST: Final = 12 * HOUR
"""The shortest window with a profile: the hours of one that is shorter differ too little."""

FLOOR: Final = 0.02
"""The least of an hour, as a part of the mean: what was never used may be used now."""

BYTES: Final = 1_600
"""About the memory of a profile."""


class Profile:
    """The use of each hour of the week, from Thursday 00:00 UTC on, as 1970 began."""

    __slots__ = ("_sums", "weeks")

    def __init__(self, hours: Iterable[float], weeks: int = 0) -> None:
        """`hours` are 168 uses that are not all 0. `weeks` is how many were learned from; 0 for a mere shape
        of the day.
        """
        found = [max(0.0, use) for use in hours]
        floor = FLOOR * sum(found) / _HOURS
        self._sums = array("d", accumulate([max(use, floor) for use in found], initial=0.0))
        self.weeks = weeks

    def use(self, first: float, last: float) -> float:
        """Return what earlier weeks used in a time of this place and length."""
        return self.until(last) - self.until(first)

    def moment(self, first: float, use: float) -> float:
        """Return when so much is used after `first`, in seconds since 1970."""
        sums = self._sums
        weeks, left = divmod(self.until(first) + use, sums[-1])
        hour = min(bisect_right(sums, left), _HOURS) - 1
        # Rounding may lead to a moment just before `first`.
        return max(first, weeks * WEEK + (hour + (left - sums[hour]) / (sums[hour + 1] - sums[hour])) * HOUR)

    def until(self, moment: float) -> float:
        """Return the use from 1970 until a moment."""
        sums = self._sums
        weeks, second = divmod(moment, WEEK)
        hour, part = divmod(second, HOUR)
        at = int(hour)
        return weeks * sums[-1] + sums[at] + (sums[at + 1] - sums[at]) * part / HOUR


def learn(spent: Iterable[tuple[int, int]], end: float, by: str = "hour") -> Profile | None:
    """Return the profile of what was spent from the beginning of each hour (or day) on; None if there is too
    little.

    `end` is the end of the last complete hour (or day) of the ledger. In the time zone of the ledger, days
    and even hours may begin at other moments than in UTC, so the weeks that count end there: each hour of the
    profile has as many of them.
    """
    end, length = int(end), HOUR if by == "hour" else DAY
    slack = length // 24  # a day of a time zone may have 23 or 25 hours
    entries = sorted([(start, use) for start, use in spent if end - KEPT_DAYS * DAY - slack <= start < end])
    if not entries:
        return None
    # The first day does not count, because the use may have begun in the middle of it.
    days = -((entries[0][0] + slack - end) // DAY) - 1
    weeks = days // 7
    if days < 1 or not (weeks or by == "hour"):
        return None
    cycle, times = (_HOURS, weeks) if weeks else (24, days)
    first = end - times * cycle * HOUR
    found = [0.0] * cycle
    for (start, use), (following, _) in pairwise([*entries, (end, 0)]):
        seconds = following - start if abs(following - start - length) <= slack else length
        second, last = max(start, first), start + seconds
        while second < last:
            hour = second // HOUR
            after = min((hour + 1) * HOUR, last)
            found[hour % cycle] += use * (after - second) / seconds / times
            second = after
    if sum(found) <= 0:
        return None
    return Profile(found * (_HOURS // cycle), weeks)
