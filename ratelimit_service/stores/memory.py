"""Counters in this process: nothing to install, nothing shared between replicas, gone with the process.

The twin of hit.lua: what a hit does is the same, step by step.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from sys import getsizeof
from typing import NamedTuple

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import COUNTER_MAX, HELD_BACK, Gate, Hit
from ..ports import Clock, Outcome, Then
from .amendments import MemoryAmendments
from .shards import MASK, SHIFT, Copy, Shards

Defer = Callable[[Callable[[], None]], object]
"""Calls something soon but not now, as `loop.call_soon` does."""

_SWEPT_AT_ONCE = 100

DEFAULT_SIZE = 128 * 2**20
"""Bytes: some 600,000 counters with names of ordinary length, half of what deploy/kubernetes gives a container."""

_BYTES_OF_A_COUNTER = 80
"""Bytes of memory of a counter beside its key: its place in a dictionary, its place in a list of `_ending`, and its value."""

_BYTES_OF_AN_END = 300
"""Bytes of memory of such a list."""


def weight_of(key: str) -> int:
    """Bytes of memory that a counter takes, about."""
    return getsizeof(key) + _BYTES_OF_A_COUNTER


class Counter(NamedTuple):
    """One counter: what it holds, and the second of the store's clock at which its time is over."""

    key: str
    value: int
    expiry: int


class _Dump(Copy):
    """A copy under way. It may be another thread that goes through it, while the loop's begins counters and sweeps them."""

    def __init__(self, counters: Shards) -> None:
        super().__init__(counters)
        self.began: set[tuple[str, int]] = set()
        """The counters that began after its moment, by key and end: a key may be swept, and begin anew."""
        self._swept: dict[int, list[str]] = {}
        self._walked: set[int] = set()

    def before_sweep(self, keys: Sequence[str], end: int) -> None:
        """Keep counters that are about to be forgotten, unless they have been gone through."""
        self.before_write(keys)
        if end not in self._walked:
            self._swept.setdefault(end, []).extend(keys)

    def counters(self, ending: Mapping[int, Sequence[str]]) -> Iterator[Counter]:
        """The counters of its moment. `ending` has the keys of each second, and changes meanwhile."""
        values = self.finish()
        ends = list(ending)
        while ends:
            for end in ends:
                # In this order: what is swept after this copy of the keys is in it, and what was swept before is kept.
                keys = dict.fromkeys(ending.get(end, ()))
                self._walked.add(end)
                keys.update(dict.fromkeys(self._swept.pop(end, ())))
                for key in keys:
                    value = values.get(key)
                    if value is not None and (key, end) not in self.began:
                        yield Counter(key, value, end)
            ends = list(self._swept)
        for part in values.parts:  # together, they would be released in one call of many milliseconds
            part.clear()


class MemoryStore:
    """Counters in a dictionary, each forgotten when its time is over.

    They take at most `size` bytes of memory, about. Then new counters are refused with a StoreError, and none is evicted:
    that would set an exhausted bucket free. `clock` has seconds that go forward only: a step of the clock of the day must expire no
    counter. `defer` postpones the answers (the tests use it to show that nobody relies on
    their coming at once); the counting is done at once all the same.
    """

    def __init__(self, clock: Clock, size: int = DEFAULT_SIZE, defer: Defer | None = None) -> None:
        self._clock = clock
        self._size = size
        self._defer = defer
        self._counters = Shards()
        self._shards = self._counters.parts
        # The keys of each second at which some are over: a tuple for each key would take as much again as the counter.
        self._ending: dict[int, list[str]] = {}
        self._ends: list[int] = []
        self._dump: _Dump | None = None
        self.amendments = MemoryAmendments()
        self.bytes = 0
        """The memory that the counters take, about."""
        self.refused = 0
        """How many hits met a full store."""
        self.changed = False
        """Whether a counter was written to since this was last set to False."""

    def __len__(self) -> int:
        return len(self._counters)

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        now = self._clock()
        if self._ends and self._ends[0] <= now:
            self._sweep(now)
        if self._dump is not None:
            self._dump.before_write(hit.key for group in groups for hit in group if hit.amount)
        apply = self._apply
        outcomes: list[Outcome] = [apply(group, now) for group in groups]
        if self._defer is None:
            then(outcomes)
        else:
            self._defer(lambda: then(outcomes))

    def _apply(self, group: Sequence[Hit], now: float) -> list[Count]:
        held: Collection[int] = ()
        for hit in group:
            if hit.gate & HELD_BACK:
                held = self._held_back(group)
                break
        shards = self._shards
        counts: list[Count] = []
        for hit in group:
            key, amount = hit.key, hit.amount
            counters = shards[hash(key) >> SHIFT & MASK]
            before = counters.get(key, 0)
            if amount == 0:
                counts.append(before)
            elif held and len(counts) in held:
                counts.append(~before)
            elif amount > 0:
                if not before and key not in counters and not self._begin(key, int(now) + hit.ttl):
                    counts.append(
                        StoreError(
                            f"the memory store is full ({self._size} bytes, MEMORY_STORE_SIZE_IN_BYTES)"
                        )
                    )
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
        ending = self._ending.get(end)
        weight = weight_of(key) if ending is not None else weight_of(key) + _BYTES_OF_AN_END
        if self.bytes + weight > self._size:
            self.refused += 1
            return False
        self.bytes += weight
        if self._dump is not None:
            self._dump.began.add((key, end))
        if ending is None:
            ending = self._ending[end] = []
            heapq.heappush(self._ends, end)
        ending.append(key)
        return True

    def _held_back(self, group: Sequence[Hit]) -> set[int]:
        """The places of the hits that are held back where one refuses: those that hold, and those that yield and have room."""
        over = [hit.is_over(self._counters.get(hit.key, 0)) for hit in group]
        gates = [hit.gate for hit in group]
        if not any(is_over and gate & Gate.REFUSES for gate, is_over in zip(gates, over, strict=True)):
            return set()
        return {
            place
            for place, gate in enumerate(gates)
            if gate & Gate.HOLDS or (gate & Gate.YIELDS and not over[place])
        }

    def _sweep(self, now: float) -> None:
        """Forget counters whose time is over; a bounded number of them at a time, so that no caller waits for it."""
        left = _SWEPT_AT_ONCE
        while left and self._ends and self._ends[0] <= now:
            ending = self._ending[self._ends[0]]
            over = ending[-left:]
            if self._dump is not None:
                self._dump.before_sweep(over, self._ends[0])
            del ending[-left:]
            for key in over:
                del self._counters[key]
                self.bytes -= weight_of(key)
            left -= len(over)
            if not ending:
                del self._ending[heapq.heappop(self._ends)]
                self.bytes -= _BYTES_OF_AN_END

    async def start(self) -> None:
        """Nothing has to be reached."""

    async def close(self) -> None:
        """Nothing has to be let go."""

    async def ping(self) -> None:
        """This store can always be reached."""

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold, by key. Walks through all counters, a shard at a time."""
        found: dict[str, int | None] = {}
        for shard in self._counters.parts:
            found |= {key: count for key, count in shard.items() if key.startswith(f"{bucket}:")}
            await asyncio.sleep(0)
        return found

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Set the counters of a bucket to nothing; returns what they held, by key."""
        held = await self.read_bucket(bucket)
        if self._dump is not None:
            self._dump.before_write(held)
        for key in held:
            if key in self._counters:
                self._counters[key] = 0
                self.changed = True
        return held

    def dump(self) -> Iterator[Counter]:
        """All counters as they are now, in no order; some may be past their time.

        They are copied while somebody goes through them, which may be in another thread. There is one dump at a time.
        """
        self._dump = dump = _Dump(self._counters)
        return self._dumped(dump)

    def _dumped(self, dump: _Dump) -> Iterator[Counter]:
        try:
            yield from dump.counters(self._ending)
        finally:
            if self._dump is dump:
                self._dump = None

    def load(self, counters: Iterable[Counter]) -> None:
        """Take over counters in place of those that are here, without those whose time is over.

        All of them, even where they take more than the store may: then new ones are refused until enough are over.
        """
        now = self._clock()
        kept = {counter.key: counter for counter in counters if counter.expiry > now}
        self._counters = Shards()
        self._shards = self._counters.parts
        self._counters.update({key: counter.value for key, counter in kept.items()})
        self._ending = {}
        for key, counter in kept.items():
            self._ending.setdefault(counter.expiry, []).append(key)
        self._ends = sorted(self._ending)
        self.bytes = sum(map(weight_of, kept)) + len(self._ends) * _BYTES_OF_AN_END
