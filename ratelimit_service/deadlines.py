"""When a call must have an answer, whatever the store does.

A caller that says how long it waits (grpc-timeout) has its answer a margin earlier, so that the answer is the service's own and
not a timeout of the caller. One that does not say so is given a time by the settings. The deadline bounds the answer alone: the
hits stay with the store, and are counted there.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

_MILLISECOND = 0.001
_FEW = 256
"""Batches that are not worth looking through for answered ones."""

_TICK = _MILLISECOND / 2
"""Seconds by which a timer may be early: uvloop rounds to milliseconds."""


class Patience(NamedTuple):
    """How long calls wait for the store, in seconds: `margin` less than their callers do, or `otherwise`."""

    margin: float = 0.01
    otherwise: float = 0.5

    def of(self, timeout: int) -> float:
        """Seconds for a caller that waits `timeout` milliseconds, half of them at least; below 0: one that does not say."""
        if timeout < 0:
            return self.otherwise
        seconds = timeout * _MILLISECOND
        return max(seconds - self.margin, seconds / 2)

    def least(self, calls: Sequence[Waiting | None]) -> float:
        """Seconds for the call of a batch that has the fewest."""
        timeouts = {call.timeout for call in calls if call is not None}
        return min(map(self.of, timeouts))


class Waiting(Protocol):
    """A call that waits for the store."""

    @property
    def timeout(self) -> int:
        """Milliseconds for which its caller waits; below 0 where it does not say."""
        ...


Late = Callable[[int, float], None]


class _Batch(NamedTuple):
    """Ordered by `due`, and then as they came; of two batches no more is compared."""

    due: float
    number: int
    began: float
    calls: Sequence[Waiting | None]
    late: Late


class Deadlines:
    """Calls that wait for the store, in the batches in which they were handed over.

    There is an entry for each batch that the store does not answer at once, and one timer for all of them.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._batches: list[_Batch] = []
        self._most = _FEW
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def watch(self, calls: Sequence[Waiting | None], late: Late) -> None:
        """Call `late` with the place of each call that the store does not answer in time, and the seconds that it had.

        `calls` are empty once the store has answered them. Before that, each that was answered early is None, and so `late` has
        to leave its call.
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
        heappush(batches, _Batch(due, next(self._numbers), began, calls, late))
        if self._timer is not None and due < self._timer_due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._wake(loop, due)

    def _drop_answered(self) -> list[_Batch]:
        """Drop the answered batches behind one that still waits.

        A caller that says it waits for a year would else keep an entry for a year. Called when the entries have doubled, so it
        costs each of them little.
        """
        self._batches = batches = [batch for batch in self._batches if batch.calls]
        heapify(batches)
        self._most = max(_FEW, 2 * len(batches))
        return batches

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._timer, self._timer_due = loop.call_at(due, self._look), due

    def _look(self) -> None:
        """Answer what is due, and come back for what is not."""
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
        """Answer the calls of a batch that are due; when the next one of it is, if any is left."""
        left: float | None = None
        for place, call in enumerate(batch.calls):
            if call is None:
                continue
            seconds = self._patience.of(call.timeout)
            due = batch.began + seconds
            if due <= now:
                batch.late(place, seconds)
            elif left is None or due < left:
                left = due
        return left
