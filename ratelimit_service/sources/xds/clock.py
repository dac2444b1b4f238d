"""The clock of a follower. Tests use a clock that they set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and waits."""

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970."""
        ...

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Wait for so many seconds."""
        ...


class SystemClock:
    """The clock of the system."""

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def wall(self) -> float:
        """See Clock."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """See Clock."""
        await asyncio.sleep(seconds)
