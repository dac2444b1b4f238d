"""Group commit: what arrives while a batch is in flight makes the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ...core.model import Hit
from ...ports import CounterStore, Outcome, Then
from .layer import Layer


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
        self._waiting: deque[tuple[Sequence[Sequence[Hit]], Then]] = deque()
        self._waiting_hits = 0

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
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

    def _send(self, calls: Sequence[tuple[Sequence[Sequence[Hit]], Then]]) -> None:
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
        calls: list[tuple[Sequence[Sequence[Hit]], Then]] = []
        size = 0
        while self._waiting and (not calls or size < self._most_in_batch):
            groups, then = self._waiting.popleft()
            calls.append((groups, then))
            size += sum(map(len, groups))
        self._waiting_hits -= size
        self._send(calls)

    def _may_send_another(self) -> bool:
        return self._waiting_hits >= self._enough and self._in_flight < self._most_in_flight
