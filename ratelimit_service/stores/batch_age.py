"""The age of a batch, by the clock by which its register expires.

Redis keeps a register for an hour by its own clock. The clocks of this machine cannot measure that hour: the
event loop's stands still while a virtual machine is suspended, and the wall clock may be corrected at any
time. So the service reads Redis' clock now and then, and a batch keeps the last reading from before it was
sent. The difference between that reading and one at the time of a resend is never shorter than the real age.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that also runs while the system is suspended, if there is one. It stops while a hypervisor pauses
the machine."""


class Moment(NamedTuple):
    """One moment by every clock, in seconds; `redis` is None if Redis does not report its time."""

    redis: float | None
    loop: float
    boot: float
    wall: float

    def age(self, now: Moment) -> float:
        """Return the seconds until `now`: by Redis' clock, or without it by the fastest clock of this
        machine.
        """
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
