"""The time at which a window will be exhausted before it ends: for views, and once as an event, when it is
certain.

Without a profile, the current rate is extrapolated (burning.py). It follows each change of the traffic, and
does not know the coming night. So the event needs all of these, at three consecutive readings of the meter:

- at this rate, the window is exhausted before it ends,
- this is within twice the period that the meter looks back on (four times in windows of less than SHORTEST,
  whose hours are similar), and the used share is larger than the elapsed share of the window; or it is within
  half of that period.

With a profile of earlier weeks (profile.py), a window is exhausted when the remaining budget is used at its
level. The event needs that to be before it ends, at three consecutive readings, even if the level is ERRORS
standard errors lower, and a burn above 0: the earlier weeks alone are no reason for an event.

Both methods cut off bursts, which have no effect after a fifth of the window. `python -m bench.forecasts`
compares them with other estimates, and tests/core/budgets/test_forecasting.py has the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from .burning import Level, Meter, runs_out
from .profile import SHORTEST, Profile

IN_A_ROW: Final = 3
REACH_AHEAD: Final = 2.0
REACH_IN_HOURS: Final = 4.0
REACH_OTHERWISE: Final = 0.5
ERRORS: Final = 2.0

Basis = Literal["rate", "profile"]
"""The method of a forecast: the current rate, or the profile of earlier weeks."""

ProfileOf = Callable[[], Profile | None]
"""Returns the profile of a bucket; None if there is none (yet)."""


class Outlook(NamedTuple):
    """The current use per second (None: not known yet), and the time of exhaustion; 0 if that is not before
    the window ends.
    """

    burn: float | None
    runs_out: float
    by: Basis | None
    """None if nothing is known yet."""


def outlook(
    meter: Meter,
    now: float,
    used: int,
    limit: int,
    end: float,
    profile: Profile | None = None,
    level: Level | None = None,
) -> Outlook:
    """Return the outlook of a window, at the readings of its meter and this one.

    `level` is that of the window by the profile, if it is known already.
    """
    burn = meter.burn(now, used)
    if profile is None:
        return Outlook(burn, runs_out(now, used, limit, end, burn), None if burn is None else "rate")
    level = level or meter.level(now, used, profile)
    return Outlook(burn, _at_level(level.level, profile, now, used, limit, end), "profile")


def has_profile(start: float, end: float) -> bool:
    """Return whether a window is long enough for a profile of hours."""
    return end - start >= SHORTEST


def _at_level(level: float, profile: Profile, now: float, used: int, limit: int, end: float) -> float:
    """Return when nothing is left at a level; 0 if that is not before the window ends."""
    if level <= 0 or used >= limit:
        return 0.0
    at = profile.moment(now, (limit - used) / level)
    return at if at < end else 0.0


class Foreseen(NamedTuple):
    """A window that runs out at `at`, in seconds since 1970. `burn` is the current use per second."""

    at: float
    burn: float
    by: Basis = "rate"


class _Known(NamedTuple):
    """A level that counts until `until`, unless the profile or the last reading is another object."""

    profile: Profile
    last: tuple[float, int]
    until: float
    level: Level


class Forecast:
    """One window from `start` to `end`, in seconds since 1970. `profile` is called at each kept reading and
    outlook. An event is certain even if the level is `errors` standard errors lower.
    """

    __slots__ = ("_end", "_errors", "_in_a_row", "_known", "_said", "_start", "meter", "profile")

    def __init__(
        self, start: float, end: float, profile: ProfileOf | None = None, *, errors: float = ERRORS
    ) -> None:
        self._start = start
        self._end = end
        self._errors = errors
        self._in_a_row = 0
        self._said = False
        self._known: _Known | None = None
        self.meter = Meter(start, end)
        self.profile = profile

    def note(self, now: float, used: int, limit: int) -> Foreseen | None:
        """Note the use of a limit. Return the forecast when it is certain, once in the window."""
        if not self.meter.note(now, used) or self._said:
            return None
        profile = self.profile() if self.profile is not None else None
        found = self._outlook(now, used, limit, profile)
        certain = bool(found.runs_out) and self._is_certain(found, profile, now, used, limit)
        self._in_a_row = self._in_a_row + 1 if certain else 0
        if self._in_a_row < IN_A_ROW or not found.burn or found.by is None:
            return None
        self._said = True
        return Foreseen(found.runs_out, found.burn, found.by)

    def outlook(self, now: float, used: int, limit: int) -> Outlook:
        """Return the outlook at a use that is not noted."""
        return self._outlook(now, used, limit, self.profile() if self.profile is not None else None)

    def _outlook(self, now: float, used: int, limit: int, profile: Profile | None) -> Outlook:
        level = self._level(now, used, profile) if profile is not None else None
        return outlook(self.meter, now, used, limit, self._end, profile, level)

    def _level(self, now: float, used: int, profile: Profile) -> Level:
        """Return the level, computed once in a slice: a scrape shows up to 2,000 windows."""
        known, last = self._known, self.meter.last
        if known is None or known.profile is not profile or known.last is not last or now >= known.until:
            level = self.meter.level(now, used, profile)
            known = self._known = _Known(profile, last, now + self.meter.slice, level)
        return known.level

    def _is_certain(self, found: Outlook, profile: Profile | None, now: float, used: int, limit: int) -> bool:
        if profile is not None:
            level, error = self._level(now, used, profile)
            return _at_level(level - self._errors * error, profile, now, used, limit, self._end) > 0
        reach = REACH_OTHERWISE
        if used * (self._end - self._start) >= limit * (now - self._start):
            reach = REACH_AHEAD if has_profile(self._start, self._end) else REACH_IN_HOURS
        return found.runs_out - now <= self.meter.looks_back(now) * reach
