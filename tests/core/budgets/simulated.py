"""Budgets that are used by random calls of random sizes, with the rhythms of days and weeks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
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
        busy = [self.rhythm(self.start + step * number) for number in range(self.looks)]
        each = self.calls / sum(busy)
        bursts = {int(place * self.looks): tokens for place, tokens in self.bursts}
        used = 0.0
        for number, share in enumerate(busy):
            used += _sum_of(chosen, share * each) * self.total / self.calls + bursts.get(number, 0)
            yield Look(self.start + step * (number + 1), int(used))


def _sum_of(chosen: random.Random, expected: float) -> float:
    """Return the sizes (exponential, 1 on average) of a random number of calls (Poisson)."""
    if expected > 30:
        return max(0.0, chosen.gauss(expected, math.sqrt(2 * expected)))
    calls, left, least = 0, chosen.random(), math.exp(-expected)
    while left > least:
        calls += 1
        left *= chosen.random()
    return sum([chosen.expovariate(1) for _ in range(calls)])
