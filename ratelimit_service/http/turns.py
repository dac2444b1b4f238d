"""The share of the event loop that the connections of a port have."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter

SLICE = 0.001
"""Seconds that all connections of a port may take in one turn of the event loop. What one event takes comes
on top.
"""


class Turns:
    """Lets connections wait when others have used the time of the port: the one that waits longest comes
    first.
    """

    def __init__(self) -> None:
        self._ends: float | None = None
        """When the time in this turn of the event loop is over; None if none has been used."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def turn(self) -> None:
        """Return when there is time; at once if there is some left in this turn of the event loop."""
        while self._ends is not None and perf_counter() >= self._ends:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        if self._ends is None:
            self._ends = perf_counter() + SLICE
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        self._ends = None
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                self._schedule()
                break
