"""Long work on the event loop, in slices: no call waits longer than a slice.

Such work is a generator that yields every few microseconds, wherever it can pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

SLICE = 0.0005
"""Seconds of a slice: the longest delay of a call, and a fortieth of the usual deadline of gateways."""

BREATH = 0.002
"""Seconds between two slices. So slices take a fifth of the time, and calls do not queue up."""


class Pace:
    """Measures slices, for work that is not one generator. `breath` is the pause between them, in seconds."""

    def __init__(self, breath: float | None = None) -> None:
        self._breath = BREATH if breath is None else breath
        self._end = perf_counter() + SLICE

    @property
    def over(self) -> bool:
        """Return whether the slice is over."""
        return perf_counter() >= self._end

    async def breathe(self) -> None:
        """Pause, and begin the next slice."""
        await asyncio.sleep(self._breath)
        self._end = perf_counter() + SLICE


async def in_slices(steps: Generator[None, None, T], pace: Pace | None = None) -> T:
    """Run `steps` in slices, and return their result."""
    pace = pace or Pace()
    result: list[T] = []
    for _ in _into(result, steps):
        if pace.over:
            await pace.breathe()
    return result[0]


def at_once(steps: Generator[None, None, T]) -> T:
    """Run `steps` without pauses, and return their result."""
    result: list[T] = []
    for _ in _into(result, steps):
        pass
    return result[0]


def _into(result: list[T], steps: Generator[None, None, T]) -> Generator[None, None, None]:
    """Yield from `steps`, and append their result to `result`."""
    result.append((yield from steps))
