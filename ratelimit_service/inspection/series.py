"""Tokens over time of the buckets that are displayed.

A bucket is followed from the first request for its series until none has come for FORGOTTEN_AFTER seconds.
The counters of each followed bucket are read every STEP seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from ..core.budgets.bucket import Budget
from ..core.errors import RateLimitServiceError
from ..core.model import Entry
from ..ports import Clock

STEP = 2
"""Seconds between two points."""

POINTS = 300
"""Points that are kept: ten minutes."""

FORGOTTEN_AFTER = 60.0

MOST = 50
"""Buckets that are followed at most; a further one replaces the one whose last request is the oldest."""

Read = Callable[[str, tuple[Entry, ...]], Awaitable[Budget | None]]
"""Returns the bucket of a descriptor as it is now; None where no rule limits it."""


class Point(NamedTuple):
    """The tokens (or requests) that were charged in the step that ends `at`, in seconds since 1970."""

    at: int
    tokens: int


class FollowedBucket:
    """The points of one bucket."""

    def __init__(self, now: float) -> None:
        self.looked = now
        self.points: deque[Point] = deque(maxlen=POINTS)
        self._before: dict[str, int] | None = None

    def note(self, budget: Budget, at: int) -> None:
        """Note the use. All windows agree on the charged tokens, except one that has just begun or was
        reset.
        """
        used = {window.key: window.used for window in budget.windows if window.used is not None}
        if self._before is not None:
            charged = [value - self._before[key] for key, value in used.items() if key in self._before]
            self.points.append(Point(at, max(0, *(charged or used.values()))))
        self._before = used


class Series:
    """The series of buckets that `read` reads."""

    def __init__(self, read: Read, now: Clock = time.time, clock: Clock = time.monotonic) -> None:
        self._read = read
        self._now = now
        self._clock = clock
        self._followed: dict[tuple[str, tuple[Entry, ...]], FollowedBucket] = {}
        self._task: asyncio.Task[None] | None = None

    async def of(self, domain: str, entries: tuple[Entry, ...]) -> list[Point] | None:
        """Return the points of a bucket so far, the oldest first, and follow it; None where no rule limits
        it.
        """
        followed = self._followed.pop((domain, entries), None)
        if followed is None:
            budget = await self._read(domain, entries)
            if budget is None:
                return None
            followed = FollowedBucket(self._clock())
            followed.note(budget, int(self._now()))
        followed.looked = self._clock()
        self._followed[domain, entries] = followed
        while len(self._followed) > MOST:
            del self._followed[next(iter(self._followed))]
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())
        return list(followed.points)

    async def step(self) -> None:
        """Record a point of each followed bucket, and drop those that are not requested any more."""
        for name, followed in list(self._followed.items()):
            if self._clock() - followed.looked > FORGOTTEN_AFTER:
                self._followed.pop(name, None)
                continue
            with suppress(RateLimitServiceError):  # a gap in the series; the store has metrics of its own
                budget = await self._read(*name)
                if budget is not None:
                    followed.note(budget, int(self._now()))

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while self._followed:
            await asyncio.sleep(STEP)
            await self.step()
