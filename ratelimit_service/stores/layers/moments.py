"""How old a batch may be, by the clock that its register expires by.

A register is kept for an hour by the clock of Redis. Ours cannot tell that hour: the clock of the event loop stands still while a
virtual machine is suspended, and that of the day may be put right at any time. So Redis is asked for its time now and then, and a
batch remembers what it said before the batch was sent; when it is to be sent again, the difference is never too small.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from .backend import Backend

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the system is suspended, where there is one. A machine that is suspended from outside stops it, too."""


class Moment(NamedTuple):
    """A moment by every clock; `redis` is None where it does not tell."""

    redis: float | None
    loop: float
    boot: float
    day: float

    def age(self, now: Moment) -> float:
        """Seconds from this moment to `now`: those of Redis, or else the most that any of our clocks says."""
        if self.redis is not None and now.redis is not None:
            return now.redis - self.redis
        return max(now.loop - self.loop, now.boot - self.boot, now.day - self.day)


class Moments:
    """Tells the moment. `last` is the one that was told last."""

    def __init__(self, below: Backend) -> None:
        self._below = below
        self.last: Moment | None = None

    async def now(self) -> Moment:
        """The moment as it is now, or a little earlier."""
        loop = asyncio.get_running_loop().time()
        boot, day = time.clock_gettime(_BOOT), time.time()
        self.last = Moment(await self._below.time(), loop, boot, day)
        return self.last
