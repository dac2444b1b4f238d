"""Deadlines of answers, whatever the store does.

A call with a deadline (grpc-timeout) is answered a margin before it, so that its caller receives an answer
and not a timeout. For other calls, a setting is the deadline. It bounds only the answer: the store still
counts the hits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

_MILLISECOND = 0.001
_FEW = 256
"""The number of batches up to which answered ones are not dropped."""

_TICK = _MILLISECOND / 2
"""The seconds by which a timer may fire early: uvloop rounds to milliseconds."""


class Patience(NamedTuple):
    """How long calls wait for the store: until `margin` seconds before their deadline, or for `otherwise`
    seconds.
    """

    margin: float = 0.01
    otherwise: float = 0.5

    def of(self, timeout: int) -> float:
        """Return the seconds for a call with this Call.timeout, at least half of it."""
        if timeout < 0:
            return self.otherwise
        seconds = timeout * _MILLISECOND
        return max(seconds - self.margin, seconds / 2)

    def least(self, calls: Sequence[Waiting | None]) -> float:
        """Return the shortest wait of any call in a batch."""
        timeouts = {call.timeout for call in calls if call is not None}
        return min(map(self.of, timeouts))


class Waiting(Protocol):
    """A call that waits for the store."""

    @property
    def timeout(self) -> int:
        """The milliseconds for which its caller waits; negative if it has no deadline."""
        ...


Expire = Callable[[int, float], None]
"""Called with the index of a call in its batch, and the seconds that it waited."""


class _Batch(NamedTuple):
    """A batch that the store has not answered. Batches compare by `due`, then by the unique `number`."""

    due: float
    number: int
    began: float
    calls: Sequence[Waiting | None]
    expire: Expire


class Deadlines:
    """The batches of calls that wait for the store, with one timer for all of them."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._batches: list[_Batch] = []
        self._most = _FEW
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def watch(self, calls: Sequence[Waiting | None], expire: Expire) -> None:
        """Call `expire` for each call that the store does not answer in time.

        The caller clears `calls` once the store has answered. `expire` replaces its call by None.
        """
        batches = self._batches
        # Drop answered batches now instead of when the timer fires.
        while batches and not batches[0].calls:
            heappop(batches)
        if len(batches) >= self._most:
            batches = self._drop_answered()
        loop = asyncio.get_running_loop()
        began = loop.time()
        due = began + self._patience.least(calls)
        heappush(batches, _Batch(due, next(self._numbers), began, calls, expire))
        if self._timer is not None and due < self._timer_due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._wake(loop, due)

    def _drop_answered(self) -> list[_Batch]:
        """Drop the answered batches after one that still waits.

        Otherwise, a call with a deadline of a year would keep its batch for a year. This runs when the number
        of batches has doubled, so its cost for each batch is small.
        """
        self._batches = batches = [batch for batch in self._batches if batch.calls]
        heapify(batches)
        self._most = max(_FEW, 2 * len(batches))
        return batches

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer, self._timer_due = loop.call_at(due, self._on_timer), due

    def _on_timer(self) -> None:
        """Expire the calls that are due, and set the timer for the next."""
        loop = asyncio.get_running_loop()
        self._timer = None
        now, batches = loop.time() + _TICK, self._batches
        while batches and (not batches[0].calls or batches[0].due <= now):
            batch = heappop(batches)
            if (due := self._expire(batch, now)) is not None:
                heappush(batches, batch._replace(due=due))
        if batches:
            self._wake(loop, batches[0].due)

    def _expire(self, batch: _Batch, now: float) -> float | None:
        """Expire the calls of a batch that are due, and return when the next one is due."""
        next_due: float | None = None
        for index, call in enumerate(batch.calls):
            if call is None:
                continue
            seconds = self._patience.of(call.timeout)
            due = batch.began + seconds
            if due <= now:
                batch.expire(index, seconds)
            elif next_due is None or due < next_due:
                next_due = due
        return next_due
