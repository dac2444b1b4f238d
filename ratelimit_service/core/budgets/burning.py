"""How fast a window is used at present, and when it runs out at that rate.

A meter keeps what was used at some thirty moments, at least a slice (about a 120th of the window) apart, and
reads the use between two moments from the line between them. Looking back from now, it divides time into
blocks, each with a rate. The burn is the mean of these rates, with those above a fence cut down to it: a
burst in a part of that time is no rate of that time.

| window | looked back | blocks |
|---|---|---|
| less than 2 days | a fifth of the window | as it was noted |
| 2 to 14 days | whole days, about a fifth of the window | as it was noted |
| longer | whole weeks, about a fifth of the window, at least one | days; weeks if more than four |

Whole days have as much night as day, and whole weeks as many weekends as the weeks to come. Where so much
time has not passed since the window began, it is whole blocks of what has passed, or all of it. Fewer than
FEWEST_BLOCKS cannot tell a burst from a rate, so the use is taken as it was noted then.

The fence is Tukey's: an upper quantile and 1.5 times its distance from the first quartile. That is the third
quartile, and for blocks 0.7: two of seven days may have a burst. In windows of some days, a few busy hours
are not a burst, so the fence is FENCE_BY_MEAN times the mean at least. Where so much of the time used nothing
that the quantile is 0, there is no rate to tell a burst from, and the mean is as it is. Before a meter, there
is the mean since the window began.

With a profile of earlier weeks (profile.py), the meter also knows the level of the window: the use between
two readings, by what the earlier weeks used in that time, over the same time before now. There the fence has
two sides, because a pause of a busy hour would count for as much as a burst. AS_BEFORE of the window's usual
use counts as a reading of level 1: without it, the few tokens of the first night would decide. It counts in
the standard error as well: readings of no use differ from it, so they are not certain of its level.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Final, NamedTuple

from .profile import Profile

SLICES: Final = 120
"""The slices of a window: two readings are at least one slice apart, or more where a meter looks further
back.
"""

LOOKED_BACK: Final = 24
"""The slices that the burn rate covers in windows without a rhythm: a fifth of the window."""

MOST_POINTS: Final = 32
"""The largest number of readings that a meter keeps."""

FENCE_BY_MEAN: Final = 4.0

FEWEST_BLOCKS: Final = 5

AS_BEFORE: Final = 0.01

_DAY, _WEEK = 86_400.0, 7 * 86_400.0
_FENCE = 1.5
_LOW, _HIGH, _HIGH_OF_BLOCKS = 0.25, 0.75, 0.7

BYTES: Final = 4_200
"""About the memory of a meter."""


class Level(NamedTuple):
    """How fast a window is used, by the profile of earlier weeks: 1 is as fast as they were. `error` is its
    standard error.
    """

    level: float
    error: float


class Meter:
    """What one window has used, noted from time to time. Times are in seconds since 1970."""

    __slots__ = ("_back", "_block", "_end", "_floor", "_points", "_start", "slice")

    def __init__(self, start: float, end: float) -> None:
        self._start, self._end = start, end
        span = end - start
        self._back, self._block, self._floor = _rhythm(span)
        # The readings kept have to reach as far back, so they are further apart where that is more of the
        # window.
        self.slice = max(span / SLICES, self._back / (MOST_POINTS - 4), 1e-3)
        """The seconds between two readings to keep."""
        self._points: list[tuple[float, int]] = [(start, 0)]

    def note(self, now: float, used: int) -> bool:
        """Note the use at `now`. Return whether this is a further reading to keep.

        A counter that is 0 again, or below the reading before the last one, was reset or had a large refund,
        and starts a new series. A smaller decrease is the refund of a charge that the last reading included.
        """
        at, before = self._points[-1]
        if used < before:
            if used and len(self._points) > 1 and used >= self._points[-2][1]:
                self._points[-1] = (at, used)
            else:
                self._points = [(now, used)]
            return False
        if now < at + self.slice:
            return False
        self._points.append((now, used))
        horizon = now - self._back
        while len(self._points) > 2 and (self._points[1][0] <= horizon or len(self._points) > MOST_POINTS):
            del self._points[0]
        return True

    @property
    def last(self) -> tuple[float, int]:
        """The last reading that is kept: another object after each change of the readings."""
        return self._points[-1]

    def looks_back(self, now: float) -> float:
        """Return the seconds that the burn rate covers."""
        return min(now - self._points[0][0], self._back)

    def burn(self, now: float, used: int) -> float | None:
        """Return the use per second; None before a slice has passed."""
        points = self._points_with(now, used)
        last = points[-1][0]
        passed = min(last - points[0][0], self._back)
        if passed < self.slice * 0.99:
            return None
        blocks = int(passed / self._block * (1 + 1e-9)) if self._block else 0
        if blocks >= FEWEST_BLOCKS:
            return _fenced_mean(sorted(_by_blocks(points, self._block, blocks)), _HIGH_OF_BLOCKS, self._floor)
        horizon = last - (blocks * self._block or self._back)
        return _fenced_mean(sorted(_as_noted(points, horizon)), _HIGH, self._floor)

    def level(self, now: float, used: int, profile: Profile) -> Level:
        """Return the level of the window by a profile."""
        points = self._points_with(now, used)
        rates = sorted(_by_profile(points, points[-1][0] - self._back, profile))
        if not rates:
            return Level(1.0, 1.0)
        time = sum([weight for _, weight in rates])
        low, high = _quantile(rates, time * _LOW), _quantile(rates, time * _HIGH)
        if high:
            reach = _FENCE * (high - low)
            rates = [(min(max(rate, low - reach), high + reach), weight) for rate, weight in rates]
        before = AS_BEFORE * profile.use(self._start, self._end)
        rates.append((1.0, before))
        time += before
        mean = sum([rate * weight for rate, weight in rates]) / time
        # The variance of a mean of so many equal readings; the last term is for a few that agree by chance.
        number = time * time / sum([weight * weight for _, weight in rates])
        spread = sum([weight * (rate - mean) ** 2 for rate, weight in rates]) / time
        return Level(mean, sqrt((spread + mean * mean / number) / number))

    def _points_with(self, now: float, used: int) -> list[tuple[float, int]]:
        """Return the readings that are kept, and this one if it is later."""
        points = list(self._points)
        if now > points[-1][0]:
            points.append((now, used))
        return points


def runs_out(now: float, used: int, limit: int, end: float, burn: float | None) -> float:
    """Return when nothing is left of a limit, in seconds since 1970; 0 if that is not before the window
    ends.
    """
    if not burn or used >= limit:
        return 0.0
    at = now + (limit - used) / burn
    return at if at < end else 0.0


def _rhythm(span: float) -> tuple[float, float, float]:
    """Return how far to look back in a window of `span` seconds, the length of blocks, and the least fence in
    means.
    """
    back = span * LOOKED_BACK / SLICES
    if span < 2 * _DAY:
        return back, 0.0, 0.0
    if span < 2 * _WEEK:
        return max(1, round(back / _DAY)) * _DAY, 0.0, FENCE_BY_MEAN
    weeks = max(1, round(back / _WEEK))
    return weeks * _WEEK, _WEEK if weeks > 4 else _DAY, 0.0


def _as_noted(points: Sequence[tuple[float, int]], horizon: float) -> list[tuple[float, float]]:
    """Return the rate between each two readings after the horizon, with its seconds."""
    rates = []
    for (first, before), (last, after) in pairwise(points):
        seconds = last - max(first, horizon)
        if seconds > 0:
            rates.append((max(0, after - before) / (last - first), seconds))
    return rates


def _by_profile(
    points: Sequence[tuple[float, int]], horizon: float, profile: Profile
) -> list[tuple[float, float]]:
    """Return the level between each two readings after the horizon, with the use of earlier weeks in that
    time.
    """
    found = []
    (first, before), *rest = points
    begin, horizon_use = profile.until(first), profile.until(horizon)
    for last, after in rest:
        end = profile.until(last)
        if last > horizon and end > begin:
            found.append((max(0, after - before) / (end - begin), end - max(begin, horizon_use)))
        before, begin = after, end
    return found


def _by_blocks(points: Sequence[tuple[float, int]], block: float, blocks: int) -> list[tuple[float, float]]:
    """Return the rate in each of the last blocks, with its seconds."""
    last = points[-1][0]
    uses = [_use_at(points, last - block * number) for number in range(blocks + 1)]
    return [(max(0.0, later - earlier) / block, block) for later, earlier in pairwise(uses)]


def _use_at(points: Sequence[tuple[float, int]], at: float) -> float:
    """Return the use at a moment, interpolated between the readings before and after it."""
    after = min(max(bisect_right(points, at, key=lambda point: point[0]), 1), len(points) - 1)
    (first, before), (last, then) = points[after - 1], points[after]
    share = min(max((at - first) / (last - first), 0.0), 1.0) if last > first else 1.0
    return before + (then - before) * share


def _fenced_mean(rates: Sequence[tuple[float, float]], upper: float, least_fence: float) -> float:
    """Return the mean of rates, the lowest first, each with its seconds; those above the fence count as the
    fence.
    """
    time = sum([seconds for _, seconds in rates])
    mean = sum([rate * seconds for rate, seconds in rates]) / time
    low, high = _quantile(rates, time * _LOW), _quantile(rates, time * upper)
    if not high:
        return mean
    fence = max(high + _FENCE * (high - low), least_fence * mean)
    return sum([min(rate, fence) * seconds for rate, seconds in rates]) / time


def _quantile(rates: Sequence[tuple[float, float]], at: float) -> float:
    passed = 0.0
    for rate, seconds in rates:
        passed += seconds
        if passed >= at * (1 - 1e-9):
            return rate
    return rates[-1][0]
