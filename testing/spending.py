"""Budgets that are used by random calls of random sizes, with the rhythms of days and weeks, and scenes of
them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

HOUR, DAY, WEEK = 3_600.0, 86_400.0, 7 * 86_400.0
MONTH, YEAR = 30 * DAY, 365 * DAY
MONDAY = 1_000 * WEEK + 4 * DAY
"""A Monday, in seconds since 1970."""

Rhythm = Callable[[float], float]
"""How busy a moment is."""


def steady(moment: float) -> float:
    return 1.0


def by_day(moment: float) -> float:
    """Return the load at a moment: ten hours are busy, and the others have a tenth of that."""
    return 1.0 if 8 <= moment % DAY / HOUR < 18 else 0.1


def by_week(moment: float) -> float:
    """Return the load at a moment as `by_day` does; weekends have a fifth of that."""
    return by_day(moment) * (1.0 if (moment - MONDAY) // DAY % 7 < 5 else 0.2)


def early(moment: float) -> float:
    """Return the load at a moment: the first nine hours of the day are busy, as in Tokyo."""
    return 1.0 if moment % DAY < 9 * HOUR else 0.1


def nightly(moment: float) -> float:
    """Return the load at a moment: a batch runs from 2 to 4 each night."""
    return 1.0 if 2 <= moment % DAY / HOUR < 4 else 0.02


class Look(NamedTuple):
    """The use at a moment."""

    now: float
    used: int


class Traffic(NamedTuple):
    """A window of `span` seconds from `start` in which this many calls use `total` tokens. It is read `looks`
    times.

    Each of `bursts` uses a number of tokens at once, at a share of the window.
    """

    rhythm: Rhythm
    span: float
    seed: int
    total: float
    calls: int
    start: float = MONDAY
    looks: int = 1_440
    bursts: tuple[tuple[float, float], ...] = ()

    def play(self) -> Iterator[Look]:
        chosen = random.Random(self.seed)
        step = self.span / self.looks
        each = self._calls_each
        bursts = {int(place * self.looks): tokens for place, tokens in self.bursts}
        used = 0.0
        for number in range(self.looks):
            share = self.rhythm(self.start + step * number)
            used += _sum_of(chosen, share * each) * self.total / self.calls + bursts.get(number, 0)
            yield Look(self.start + step * (number + 1), int(used))

    def history(self, days: int = 29) -> Iterator[tuple[int, int]]:
        """Yield the start of each hour of the days before the window, and its use."""
        chosen = random.Random(-1 - self.seed)
        each = self._calls_each * HOUR / (self.span / self.looks)
        today = int(self.start // DAY * DAY)
        for start in range(today - days * int(DAY), today, int(HOUR)):
            calls = self.rhythm(start + HOUR / 2) * each
            yield start, int(_sum_of(chosen, calls) * self.total / self.calls)

    @property
    def _calls_each(self) -> float:
        """The calls of a step in which the rhythm is 1."""
        step = self.span / self.looks
        return self.calls / sum([self.rhythm(self.start + step * number) for number in range(self.looks)])


@dataclass(frozen=True)
class Scene:
    """Traffic that differs from that of earlier weeks, or interventions. `change` is a factor, by the start
    and span of the window and a moment; `top_up` and `reset` are shares of the window.
    """

    name: str
    rhythm: Rhythm = by_week
    change: Callable[[float, float, float], float] = lambda start, span, moment: 1.0
    burst: float = 0.0
    """A fifth of the limit is used at once, at this share of the window."""
    at_night: bool = False
    """A fifth of the limit is used at once, at 3 in a night at about a seventh of the window."""
    days: int = 29
    """The days of its history."""
    top_up: float = 0.0
    reset: float = 0.0
    spans: tuple[float, ...] = (DAY, WEEK, MONTH)

    def traffic(self, span: float, seed: int, total: float, limit: float, calls: int) -> Traffic:
        """Return the traffic of a window that uses `total`, bursts included. It may begin on any day."""
        start = MONDAY + seed * DAY + (9 * HOUR if span < DAY else 0.0)

        def busy(moment: float) -> float:
            return self.rhythm(moment) * self.change(start, span, moment)

        burst = self.burst
        if self.at_night:
            burst = (int(0.15 * span / DAY) * DAY + 3 * HOUR) / span
        bursts = ((burst, 0.2 * limit),) if burst else ()
        return Traffic(busy, span, seed, total - (0.2 * limit if burst else 0.0), calls, start, bursts=bursts)


def _rush(start: float, span: float, moment: float) -> float:
    return 3.0 if (moment - start) % MONTH >= MONTH - 3 * DAY else 1.0


def _holiday(start: float, span: float, moment: float) -> float:
    return 0.1 if 0.1 * span <= moment - start < 0.1 * span + min(2 * DAY, 0.1 * span) else 1.0


ALSO_AN_HOUR = (HOUR, DAY, WEEK, MONTH)
SCENES = (
    Scene("steady", steady, spans=ALSO_AN_HOUR),
    Scene("office hours", by_day),
    Scene("busy from 0 to 9", early),
    Scene("quiet weekends", by_week),
    Scene("a batch each night", nightly),
    Scene("month-end rush", change=_rush, spans=(MONTH,)),
    Scene("burst at the start", burst=0.02, spans=ALSO_AN_HOUR),
    Scene("burst in a night", at_night=True),
    Scene("new customer", days=0),
    Scene("holiday", change=_holiday),
    Scene(
        "holiday in the week before",
        change=lambda start, span, moment: 0.1 if -5 * DAY <= moment - start < -3 * DAY else 1.0,
    ),
    Scene("growth of 5 % a week", change=lambda start, span, moment: 1.05 ** ((moment - start) / WEEK)),
    Scene("three times the weeks before", change=lambda start, span, moment: 3.0 if moment >= start else 1.0),
    Scene("top-up of half the limit", top_up=0.4),
    Scene("reset", reset=0.27),
)


def _sum_of(chosen: random.Random, expected: float) -> float:
    """Return the sizes (exponential, 1 on average) of a random number of calls (Poisson)."""
    if expected > 30:
        return max(0.0, chosen.gauss(expected, math.sqrt(2 * expected)))
    calls, left, least = 0, chosen.random(), math.exp(-expected)
    while left > least:
        calls += 1
        left *= chosen.random()
    return sum([chosen.expovariate(1) for _ in range(calls)])
