"""Forecasts once that a window runs out before it ends, when that is certain.

The burn (burning.py) is a rate of the present, and what people look at may follow each of its moves. What they are called for should
not. So a forecast needs all of these, at three kept moments of the meter in a row:

- at this burn, the window runs out before it ends,
- within four times the time that the meter looks back on, if the use is ahead of its pace: a larger share is used than has passed
  of the window; or within half of that time, whatever the pace is.

A burst is cut from the burn, and gone from it after a fifth of the window. Without the pace, the busy hours of each day would
be a forecast for a budget by the day that lasts. tests/core/budgets/test_forecasting.py simulates all of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .burning import Meter, runs_out

IN_A_ROW: Final = 3
REACH_AHEAD: Final = 4.0
REACH_OTHERWISE: Final = 0.5


class Foreseen(NamedTuple):
    """A window that runs out at `at`, in seconds since 1970, at the rate of `burn` a second."""

    at: float
    burn: float


class Forecast:
    """One window from `start` to `end`, in seconds since 1970."""

    __slots__ = ("_end", "_in_a_row", "_said", "_start", "meter")

    def __init__(self, start: float, end: float) -> None:
        self._start = start
        self._end = end
        self._in_a_row = 0
        self._said = False
        self.meter = Meter(start, end)

    def note(self, now: float, used: int, limit: int) -> Foreseen | None:
        """Note the use of a limit. Return the forecast when it is certain, once in the window."""
        if not self.meter.note(now, used) or self._said:
            return None
        burn = self.meter.burn(now, used)
        at = runs_out(now, used, limit, self._end, burn)
        self._in_a_row = self._in_a_row + 1 if at and at - now <= self._reach(now, used, limit) else 0
        if self._in_a_row < IN_A_ROW or burn is None:
            return None
        self._said = True
        return Foreseen(at, burn)

    def _reach(self, now: float, used: int, limit: int) -> float:
        """Return the seconds that a forecast may be ahead."""
        ahead = used * (self._end - self._start) >= limit * (now - self._start)
        return self.meter.looks_back(now) * (REACH_AHEAD if ahead else REACH_OTHERWISE)
