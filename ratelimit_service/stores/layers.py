"""What stands between the service and a store: group commit, and the deadline of an answer.

Each layer is a CounterStore over another one, and knows nothing of what is below it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ..core.errors import StoreError
from ..core.model import HitValues
from ..ports import CounterStore, Outcome, Then


class Layer:
    """A CounterStore that leaves everything to the one below; layers override what they are for."""

    for_callers = False
    """Whether it is there for callers who cannot wait: their answers may be early, or without a count."""

    def __init__(self, below: CounterStore) -> None:
        self._below = below

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        self._below.hit(groups, then)

    async def start(self) -> None:
        """Reach the store below."""
        await self._below.start()

    async def close(self) -> None:
        """Close the store below."""
        await self._below.close()

    async def ping(self) -> None:
        """Ask the store below whether it can be reached."""
        await self._below.ping()

    async def look(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold."""
        return await self._below.look(bucket)

    async def forget(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket."""
        return await self._below.forget(bucket)


class CoalescingStore(Layer):
    """Group commit without timers: what arrives while a batch is in flight makes the next one.

    The first goes out at once, so an idle service answers as fast as without this layer; the busier it is, the larger the
    batches become. Hits are put together, never added up: every caller sees its own count. Where the store is far away, up
    to `most_in_flight` batches are on their way at once, each of `enough` hits: nobody then waits for two round trips. Once
    `most_waiting` hits wait (the store is slow then), requests go down at once, each by itself: what becomes of them is for
    the store to say.
    """

    def __init__(
        self,
        below: CounterStore,
        *,
        most_in_batch: int = 2_000,
        most_waiting: int = 20_000,
        most_in_flight: int = 4,
        enough: int = 16,
    ) -> None:
        super().__init__(below)
        self._most_in_flight = most_in_flight
        self._enough = enough
        self._most_in_batch = most_in_batch
        self._most_waiting = most_waiting
        self._in_flight = 0
        self._waiting: deque[tuple[Sequence[Sequence[HitValues]], Then]] = deque()
        self._waiting_hits = 0

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):  # nothing to ask, so nothing to wait for
            then([() for _ in groups])
            return
        if not self._in_flight:
            self._send([(groups, then)])
            return
        hits = sum(map(len, groups))
        if self._waiting_hits + hits > self._most_waiting:
            self._below.hit(groups, then)
            return
        self._waiting.append((groups, then))
        self._waiting_hits += hits
        self._send_next()

    async def close(self) -> None:
        """Hand down what waits, then close the store below."""
        while self._waiting:
            groups, then = self._waiting.popleft()
            self._below.hit(groups, then)
        await super().close()

    def _send(self, calls: Sequence[tuple[Sequence[Sequence[HitValues]], Then]]) -> None:
        self._in_flight += 1

        def answer(outcomes: Sequence[Outcome]) -> None:
            self._in_flight -= 1
            at = 0
            for groups, then in calls:
                then(outcomes[at : at + len(groups)])
                at += len(groups)
            self._send_next()

        self._below.hit([group for groups, _ in calls for group in groups], answer)

    def _send_next(self) -> None:
        if not self._waiting or (self._in_flight and not self._may_send_another()):
            return
        calls: list[tuple[Sequence[Sequence[HitValues]], Then]] = []
        size = 0
        while self._waiting and (not calls or size < self._most_in_batch):
            groups, then = self._waiting.popleft()
            calls.append((groups, then))
            size += sum(map(len, groups))
        self._waiting_hits -= size
        self._send(calls)

    def _may_send_another(self) -> bool:
        return self._waiting_hits >= self._enough and self._in_flight < self._most_in_flight


class _Awaited:
    """A call whose answer is due at `due`; `then` is None once it has been answered."""

    __slots__ = ("due", "groups", "then")

    def __init__(self, groups: Sequence[Sequence[HitValues]], then: Then, due: float) -> None:
        self.groups = groups
        self.then: Then | None = then
        self.due = due

    def answer(self, outcomes: Sequence[Outcome]) -> None:
        then, self.then = self.then, None
        if then is not None:
            then(outcomes)


class DeadlineStore(Layer):
    """Answers within `seconds`, whatever the store below does.

    The deadline bounds the answer alone: the hits stay with the store below, and are counted there. All calls have the
    same time, so they fall due in the order in which they came, and one timer is enough for all.
    """

    for_callers = True

    def __init__(self, below: CounterStore, seconds: float) -> None:
        super().__init__(below)
        self.missed = 0
        """How many requests had to be answered without the store."""
        self._seconds = seconds
        self._awaited: deque[_Awaited] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        loop = asyncio.get_running_loop()
        call = _Awaited(groups, then, loop.time() + self._seconds)
        self._below.hit(groups, call.answer)
        awaited = self._awaited
        # Who is answered would else stay until the timer.
        while awaited and awaited[0].then is None:
            awaited.popleft()
        if call.then is None:
            return
        awaited.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.due, self._look)

    def _look(self) -> None:
        """Answer what is due, and come back for what is not."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._awaited and (self._awaited[0].then is None or self._awaited[0].due <= loop.time()):
            call = self._awaited.popleft()
            if call.then is not None:
                late = StoreError(f"the store did not answer within {self._seconds * 1000:g} ms")
                self.missed += sum(map(bool, call.groups))
                call.answer([late if group else () for group in call.groups])
        if self._awaited:
            self._timer = loop.call_at(self._awaited[0].due, self._look)

    async def close(self) -> None:
        """Close the store below; what it still answers is passed on."""
        await super().close()
        if self._timer is not None:
            self._timer.cancel()


def without_deadline(store: CounterStore) -> CounterStore:
    """The same counters for somebody who can wait, and would lose what an answer that comes late has to say."""
    while isinstance(store, Layer) and store.for_callers:
        store = store._below
    return store
