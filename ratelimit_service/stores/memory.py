"""Counters in this process: nothing to install, nothing shared between replicas, gone with the process.

The twin of hit.lua: what a hit does is the same, step by step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import COUNTER_MAX, HELD_BACK, Gate, Hit
from ..ports import Clock, Outcome, Then

Defer = Callable[[Callable[[], None]], object]
"""Calls something soon but not now, as `loop.call_soon` does."""

_SWEPT_AT_ONCE = 100


class Counter(NamedTuple):
    """One counter: what it holds, and the second since 1970 at which its time is over."""

    key: str
    value: int
    expiry: int


class MemoryStore:
    """Counters in a dictionary, each forgotten when its time is over.

    At `capacity` counters, new ones are refused with a StoreError; none is ever thrown out early, because that would
    set an exhausted bucket free. `defer` puts off the answers (the tests use it to show that nobody relies on their
    coming at once); the counting is done at once all the same.
    """

    def __init__(self, clock: Clock, capacity: int = 5_000_000, defer: Defer | None = None) -> None:
        self._clock = clock
        self._capacity = capacity
        self._defer = defer
        self._counters: dict[str, int] = {}
        self._expiry: list[tuple[int, str]] = []
        self.refused = 0
        """How many hits met a full store."""
        self.changed = False
        """Whether a counter was written to since this was last set to False."""

    def __len__(self) -> int:
        return len(self._counters)

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        now = self._clock()
        self._sweep(now)
        outcomes: list[Outcome] = [self._apply(group, now) for group in groups]
        if self._defer is None:
            then(outcomes)
        else:
            self._defer(lambda: then(outcomes))

    def _apply(self, group: Sequence[Hit], now: float) -> list[Count]:
        held = self._held_back(group) if any([hit.gate & HELD_BACK for hit in group]) else ()
        counts: list[Count] = []
        for place, hit in enumerate(group):
            before = self._counters.get(hit.key, 0)
            if hit.amount == 0:
                counts.append(before)
            elif place in held:
                counts.append(~before)
            elif hit.amount < 0:
                if before:
                    self._counters[hit.key] = max(0, before + hit.amount)
                    self.changed = True
                counts.append(before)
            else:
                counts.append(self._add(hit, before, now))
        return counts

    def _add(self, hit: Hit, before: int, now: float) -> Count:
        if not before and hit.key not in self._counters:
            if len(self._counters) >= self._capacity:
                self.refused += 1
                return StoreError(f"the memory store is full ({self._capacity} counters)")
            heapq.heappush(self._expiry, (int(now) + hit.ttl, hit.key))
        self._counters[hit.key] = min(before + hit.amount, COUNTER_MAX)
        self.changed = True
        return before

    def _held_back(self, group: Sequence[Hit]) -> set[int]:
        """The places of the hits that are held back where one refuses: those that hold, and those that yield and have room."""
        over = [self._is_over(hit) for hit in group]
        if not any(is_over and hit.gate & Gate.REFUSES for hit, is_over in zip(group, over, strict=True)):
            return set()
        return {
            place
            for place, hit in enumerate(group)
            if hit.gate & Gate.HOLDS or (hit.gate & Gate.YIELDS and not over[place])
        }

    def _is_over(self, hit: Hit) -> bool:
        before = self._counters.get(hit.key, 0)
        if hit.gate & Gate.BUDGET:
            return hit.amount >= 0 and before >= hit.limit
        return hit.amount >= 0 and before + hit.amount > hit.limit

    def _sweep(self, now: float) -> None:
        """Forget counters whose time is over; a bounded number of them at a time, so that no caller waits for it."""
        for _ in range(_SWEPT_AT_ONCE):
            if not self._expiry or self._expiry[0][0] > now:
                return
            del self._counters[heapq.heappop(self._expiry)[1]]

    async def start(self) -> None:
        """Nothing has to be reached."""

    async def close(self) -> None:
        """Nothing has to be let go."""

    async def ping(self) -> None:
        """This store can always be reached."""

    async def look(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold, by key."""
        return {key: count for key, count in self._counters.items() if key.startswith(f"{bucket}:")}

    async def forget(self, bucket: str) -> dict[str, int | None]:
        """Set the counters of a bucket to nothing; returns what they held, by key."""
        held = await self.look(bucket)
        for key in held:
            self._counters[key] = 0
            self.changed = True
        return held

    def dump(self) -> Iterator[Counter]:
        """All counters as they are now, in no order; some may be past their time.

        Copied at once, which takes some 50 ms for a million. Going through them takes longer, and may be done in
        another thread.
        """
        values, expiry = self._counters.copy(), self._expiry.copy()
        return (Counter(key, values[key], end) for end, key in expiry)

    def load(self, counters: Iterable[Counter]) -> None:
        """Take over counters in place of those that are here, without those whose time is over."""
        now = self._clock()
        kept = {counter.key: counter for counter in counters if counter.expiry > now}
        self._counters = {key: counter.value for key, counter in kept.items()}
        self._expiry = [(counter.expiry, key) for key, counter in kept.items()]
        heapq.heapify(self._expiry)
