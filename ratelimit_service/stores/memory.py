"""Counters in this process: nothing to install, nothing shared between replicas, gone with the process.

The twin of hit.lua: what a hit does is the same, step by step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import COUNTER_MAX, HELD_BACK, Gate, HitValues
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
        # The keys of each second at which some are over: a tuple for each key would take as much again as the counter.
        self._ending: dict[int, list[str]] = {}
        self._ends: list[int] = []
        self.refused = 0
        """How many hits met a full store."""
        self.changed = False
        """Whether a counter was written to since this was last set to False."""

    def __len__(self) -> int:
        return len(self._counters)

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        now = self._clock()
        self._sweep(now)
        apply = self._apply
        outcomes: list[Outcome] = [apply(group, now) for group in groups]
        if self._defer is None:
            then(outcomes)
        else:
            self._defer(lambda: then(outcomes))

    def _apply(self, group: Sequence[HitValues], now: float) -> list[Count]:
        held: Collection[int] = ()
        for _, _, _, _, gate in group:
            if gate & HELD_BACK:
                held = self._held_back(group)
                break
        counters = self._counters
        counts: list[Count] = []
        for key, amount, ttl, _, _ in group:
            before = counters.get(key, 0)
            if amount == 0:
                counts.append(before)
            elif held and len(counts) in held:
                counts.append(~before)
            elif amount > 0:
                if not before and key not in counters and not self._begin(key, int(now) + ttl):
                    counts.append(StoreError(f"the memory store is full ({self._capacity} counters)"))
                    continue
                after = before + amount
                counters[key] = after if after < COUNTER_MAX else COUNTER_MAX
                self.changed = True
                counts.append(before)
            else:
                if before:
                    counters[key] = max(0, before + amount)
                    self.changed = True
                counts.append(before)
        return counts

    def _begin(self, key: str, end: int) -> bool:
        """Make room for a counter whose time is over at `end`; False where there is none."""
        if len(self._counters) >= self._capacity:
            self.refused += 1
            return False
        ending = self._ending.get(end)
        if ending is None:
            ending = self._ending[end] = []
            heapq.heappush(self._ends, end)
        ending.append(key)
        return True

    def _held_back(self, group: Sequence[HitValues]) -> set[int]:
        """The places of the hits that are held back where one refuses: those that hold, and those that yield and have room."""
        over = [self._is_over(hit) for hit in group]
        gates = [gate for _, _, _, _, gate in group]
        if not any(is_over and gate & Gate.REFUSES for gate, is_over in zip(gates, over, strict=True)):
            return set()
        return {
            place
            for place, gate in enumerate(gates)
            if gate & Gate.HOLDS or (gate & Gate.YIELDS and not over[place])
        }

    def _is_over(self, hit: HitValues) -> bool:
        key, amount, _, limit, gate = hit
        before = self._counters.get(key, 0)
        if gate & Gate.BUDGET:
            return amount >= 0 and before >= limit
        return amount >= 0 and before + amount > limit

    def _sweep(self, now: float) -> None:
        """Forget counters whose time is over; a bounded number of them at a time, so that no caller waits for it."""
        left = _SWEPT_AT_ONCE
        while left and self._ends and self._ends[0] <= now:
            ending = self._ending[self._ends[0]]
            over = ending[-left:]
            del ending[-left:]
            for key in over:
                del self._counters[key]
            left -= len(over)
            if not ending:
                del self._ending[heapq.heappop(self._ends)]

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
        values = self._counters.copy()
        ending = [(end, keys.copy()) for end, keys in self._ending.items()]
        return (Counter(key, values[key], end) for end, keys in ending for key in keys)

    def load(self, counters: Iterable[Counter]) -> None:
        """Take over counters in place of those that are here, without those whose time is over."""
        now = self._clock()
        kept = {counter.key: counter for counter in counters if counter.expiry > now}
        self._counters = {key: counter.value for key, counter in kept.items()}
        self._ending = {}
        for key, counter in kept.items():
            self._ending.setdefault(counter.expiry, []).append(key)
        self._ends = sorted(self._ending)
