"""How old a batch may be, by the clock that its register expires by.

Redis keeps a register for an hour by its own clock. The clocks of this machine cannot measure that hour: the
event loop's stands still while a virtual machine is suspended, and the wall clock may be corrected at any
time. So the service reads Redis' clock now and then, and a batch keeps the last reading from before it was
sent. The difference to the reading at the time of a resend is never shorter than the real age.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that runs on while the system is suspended, where there is one. A hypervisor that pauses the
machine stops it too."""


class Moment(NamedTuple):
    """One moment by every clock, in seconds; `redis` is None where Redis does not report its time."""

    redis: float | None
    loop: float
    boot: float
    wall: float

    def age(self, now: Moment) -> float:
        """Return the seconds until `now`: by Redis' clock, or else by the fastest clock of this machine."""
        if self.redis is not None and now.redis is not None:
            return now.redis - self.redis
        return max(now.loop - self.loop, now.boot - self.boot, now.wall - self.wall)


class Clocks:
    """Reads all clocks together. `redis_time` reads Redis' (Backend.time)."""

    def __init__(self, redis_time: Callable[[], Awaitable[float | None]]) -> None:
        self._redis_time = redis_time
        self.last: Moment | None = None
        """The last reading."""

    async def read(self) -> Moment:
        """Return this moment, or one shortly before it."""
        loop = asyncio.get_running_loop().time()
        boot, wall = time.clock_gettime(_BOOT), time.time()
        self.last = Moment(await self._redis_time(), loop, boot, wall)
        return self.last
