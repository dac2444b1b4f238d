"""Group commit: hits that arrive while a batch is in flight make up the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ...ports import CounterStore, OnOutcomes, Outcome
from ..batch import Groups
from .layer import Layer


class CoalescingStore(Layer):
    """Group commit without timers.

    The first batch leaves at once, so an idle service answers as fast as without this layer; the busier the
    service, the larger the batches. Hits are collected, never added up: every caller gets its own count. As
    soon as `enough` hits wait, another batch leaves, up to `most_in_flight` batches at once, so that no
    caller of a distant store waits for two round trips. If `most_waiting` hits wait already, each further
    request is passed down at once as a batch of its own, and the store below decides what happens to it.
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
        self._waiting: deque[tuple[Groups, OnOutcomes]] = deque()
        self._waiting_hits = 0

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):  # no need to wait for the store
            on_outcomes([() for _ in groups])
            return
        if not self._in_flight:
            self._send([(groups, on_outcomes)])
            return
        hits = sum(map(len, groups))
        if self._waiting_hits + hits > self._most_waiting:
            self._below.hit(groups, on_outcomes)
            return
        self._waiting.append((groups, on_outcomes))
        self._waiting_hits += hits
        self._send_next()

    async def close(self) -> None:
        """Pass down the hits that wait, then close the store below."""
        while self._waiting:
            groups, on_outcomes = self._waiting.popleft()
            self._below.hit(groups, on_outcomes)
        await super().close()

    def _send(self, calls: Sequence[tuple[Groups, OnOutcomes]]) -> None:
        self._in_flight += 1

        def on_batch(outcomes: Sequence[Outcome]) -> None:
            self._in_flight -= 1
            at = 0
            for groups, on_outcomes in calls:
                on_outcomes(outcomes[at : at + len(groups)])
                at += len(groups)
            self._send_next()

        self._below.hit([group for groups, _ in calls for group in groups], on_batch)

    def _send_next(self) -> None:
        if not self._waiting or (self._in_flight and not self._may_send_another()):
            return
        calls: list[tuple[Groups, OnOutcomes]] = []
        size = 0
        while self._waiting and (not calls or size < self._most_in_batch):
            groups, on_outcomes = self._waiting.popleft()
            calls.append((groups, on_outcomes))
            size += sum(map(len, groups))
        self._waiting_hits -= size
        self._send(calls)

    def _may_send_another(self) -> bool:
        return self._waiting_hits >= self._enough and self._in_flight < self._most_in_flight
