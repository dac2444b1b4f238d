"""How fast a window is used at present, and when it runs out at that rate.

A meter keeps what was used at some twenty moments of the last fifth of the window, at least a slice apart. Between two of them
there is a rate. Their mean over time is the burn, with the rates above Tukey's fence (the third quartile and 1.5 times
the distance between the quartiles) cut down to it: a burst in a part of that time is no rate of that time.

Where the three quarters of the time in which least was used used nothing, there is no rate to tell a burst from, and the mean
is as it is. Before a meter, there is the mean since the window began.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

SLICES = 120
"""The parts of a window: two moments are at least one of them apart."""

LOOKED_BACK = 24
"""The slices that count: a fifth of the window."""

_FENCE = 1.5

BYTES = 3_600
"""About the memory of a meter."""


class Meter:
    """What one window has used, noted from time to time. Times are in seconds since 1970."""

    __slots__ = ("_points", "_slice")

    def __init__(self, start: float, end: float) -> None:
        self._slice = max((end - start) / SLICES, 1e-3)
        self._points: list[tuple[float, int]] = [(start, 0)]

    def note(self, now: float, used: int) -> None:
        """Note what is used at `now`. A counter that has gone down (a refund, a reset) begins anew."""
        at, before = self._points[-1]
        if used < before:
            self._points = [(now, used)]
        elif now >= at + self._slice:
            self._points.append((now, used))
            horizon = now - LOOKED_BACK * self._slice
            while len(self._points) > 2 and self._points[1][0] <= horizon:
                del self._points[0]

    def burn(self, now: float, used: int) -> float | None:
        """Return what is used in a second; None where a slice has not passed yet."""
        points = self._points
        if now > points[-1][0]:
            points = [*points, (now, used)]
        horizon = now - LOOKED_BACK * self._slice
        rates: list[tuple[float, float]] = []
        for (first, before), (last, after) in pairwise(points):
            seconds = last - max(first, horizon)
            if seconds > 0:
                rates.append((max(0, after - before) / (last - first), seconds))
        time = sum([seconds for _, seconds in rates])
        if time < self._slice * 0.99:
            return None
        return _fenced_mean(sorted(rates), time)


def runs_out(now: float, used: int, limit: int, end: float, burn: float | None) -> float:
    """Return when nothing is left of a limit, in seconds since 1970; 0 where that is not before the window ends."""
    if not burn or used >= limit:
        return 0.0
    at = now + (limit - used) / burn
    return at if at < end else 0.0


def _fenced_mean(rates: Sequence[tuple[float, float]], time: float) -> float:
    """Return the mean of rates, the lowest first, each with its seconds; those above the fence count as the fence."""
    low, high = _quantile(rates, time * 0.25), _quantile(rates, time * 0.75)
    fence = high + _FENCE * (high - low) if high else rates[-1][0]
    return sum([min(rate, fence) * seconds for rate, seconds in rates]) / time


def _quantile(rates: Sequence[tuple[float, float]], at: float) -> float:
    passed = 0.0
    for rate, seconds in rates:
        passed += seconds
        if passed >= at * (1 - 1e-9):
            return rate
    return rates[-1][0]
