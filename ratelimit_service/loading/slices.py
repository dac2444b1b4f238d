"""Long work on the event loop, done a slice at a time, so that no call waits for more than a slice.

Such work is a generator that yields wherever it may be interrupted, after some microseconds each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

SLICE = 0.0005
"""Seconds of work in one go. A call that comes meanwhile waits so long at worst, which is a fortieth of what gateways wait."""

BREATH = 0.002
"""Seconds between two slices. So the work takes a fifth of the time, and what has come during a slice is long done by the next."""


class Pace:
    """Says when a slice is over; for work that is not one generator. `breath` is in seconds."""

    def __init__(self, breath: float | None = None) -> None:
        self._breath = BREATH if breath is None else breath
        self._end = perf_counter() + SLICE

    @property
    def over(self) -> bool:
        """Whether the others are to have their turn."""
        return perf_counter() >= self._end

    async def breathe(self) -> None:
        """Give them their turn, and begin the next slice."""
        await asyncio.sleep(self._breath)
        self._end = perf_counter() + SLICE


async def in_slices(steps: Generator[None, None, T], pace: Pace | None = None) -> T:
    """Do the work of `steps` in slices, and return what it comes to."""
    pace = pace or Pace()
    result: list[T] = []
    for _ in _into(result, steps):
        if pace.over:
            await pace.breathe()
    return result[0]


def at_once(steps: Generator[None, None, T]) -> T:
    """The same in one go, for where nobody waits."""
    result: list[T] = []
    for _ in _into(result, steps):
        pass
    return result[0]


def _into(result: list[T], steps: Generator[None, None, T]) -> Generator[None, None, None]:
    """The same steps, and then what they come to in a list."""
    result.append((yield from steps))
