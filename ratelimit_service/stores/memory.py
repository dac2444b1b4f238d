"""Counters in this process: they are not shared between replicas, and are lost when the process ends.

This is the twin of hit.lua, which applies a hit in the same steps.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from sys import getsizeof

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.gates import Gate
from ..core.hit import Hit
from ..core.holds.hit import ASIDE, TAKE, HoldHit
from ..core.ledger.entries import REFUNDED, REFUSED, is_of_ledger
from ..core.model import COUNTER_MAX, HELD_BACK
from ..ports import Clock, OnOutcomes, Outcome, WalkStep
from .amendments import MemoryAmendments
from .cursors import read_number
from .dump import Counter, Dump
from .events import MemoryEvents
from .holds import AllHolds, apply_holds, forget_uncounted, take_alone
from .replicas import MemoryReplicas
from .shards import MASK, SHARDS, SHIFT, Shards

Defer = Callable[[Callable[[], None]], object]
"""Calls a function soon, but not at once, as `loop.call_soon` does."""

_SWEPT_AT_ONCE = 100
"""Expired counters that are removed in one call of `hit`, so that no caller waits for a long sweep."""

DEFAULT_SIZE = 128 * 2**20
"""Bytes: some 600,000 counters with ordinary keys, and half the memory limit in deploy/kubernetes."""

_BYTES_OF_A_COUNTER = 80
"""Bytes of memory of a counter beside its key: its value, its place in a shard and in a list of `_ending`."""

_REFUSES, _BUDGET = Gate.REFUSES, Gate.BUDGET

_ENTRIES_END = 3_600
"""Seconds: entries of a ledger end at multiples of this."""

_BYTES_OF_AN_END = 300
"""Bytes of memory of such a list, without its entries."""


_BYTES_OF_A_TEXT = getsizeof("")
"""Bytes of memory of a text of ASCII beside its characters; nearly all keys are such."""

# Where this module is compiled, these are integers of C.
_SHIFT, _MASK = SHIFT, MASK
_ASIDE, _HELD_BACK, _ENTRY, _LEDGER = ASIDE, HELD_BACK, Gate.ENTRY, Gate.LEDGER


def weight_of(key: str) -> int:
    """Estimate the bytes of memory of a counter."""
    return (len(key) + _BYTES_OF_A_TEXT if key.isascii() else getsizeof(key)) + _BYTES_OF_A_COUNTER


class MemoryStore:
    """Counters in dictionaries, each of which expires.

    They take about `size` bytes of memory at most. A full store refuses new counters with a StoreError, and
    evicts none: eviction would free an exhausted bucket. `clock` is monotonic, in seconds: a step of the wall
    clock must expire no counter. `defer` postpones the call of `on_outcomes`, not the counting; tests use it
    to show that no caller relies on an immediate call.
    """

    def __init__(self, clock: Clock, size: int = DEFAULT_SIZE, defer: Defer | None = None) -> None:
        self._clock = clock
        self._size = size
        self._defer = defer
        self._counters = Shards()
        self._shards = self._counters.shards
        # The keys, by the second at which they expire. A tuple for each would double the memory of a counter.
        self._ending: dict[int, list[str]] = {}
        self._ends: list[int] = []
        self._dump: Dump | None = None
        self.amendments = MemoryAmendments()
        self.replicas = MemoryReplicas(clock)
        self.events = MemoryEvents(clock)
        self.holds = AllHolds(size // 8)
        self.bytes = 0
        """An estimate of the bytes of memory of all counters."""
        self.refused = 0
        """The number of hits that a full store has refused."""
        self.unrecorded = 0
        """The number of ledger entries that a full store has not recorded."""
        self.changed = False
        """Whether a counter was written since this was last set to False."""

    def __len__(self) -> int:
        return len(self._counters)

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        now = self._clock()
        if self._ends and self._ends[0] <= now:
            self._sweep(now)
        if self._dump is not None:
            self._dump.before_write(hit.key for group in groups for hit in group if hit.amount)
        outcomes: list[Outcome] = [self._apply(group, now) for group in groups]
        if self._defer is None:
            on_outcomes(outcomes)
        else:
            self._defer(lambda: on_outcomes(outcomes))

    def _apply(self, group: Sequence[Hit], now: float) -> Sequence[Count]:
        held: Collection[int] = ()
        aside: Mapping[int, int] = {}
        gates = 0
        for hit in group:
            gates |= hit.gate
        if gates & _ASIDE and (checked := self._check_with_hold(group)) is not None:
            return checked
        if gates & _HELD_BACK:
            held, aside = self._held_back(group)
        if gates & _ENTRY:
            held = {*held, *[place for place, hit in enumerate(group) if hit.gate & Gate.ENTRY]}
        shards = self._shards
        counts: list[Count] = []
        full = False
        for hit in group:
            key, amount = hit.key, hit.amount
            counters = shards[hash(key) >> _SHIFT & _MASK]
            before = counters.get(key, 0)
            if not amount:
                counts.append(aside[len(counts)] if aside and hit.gate & _ASIDE else before)
            elif held and len(counts) in held:
                counts.append(~before)
            elif amount > 0:
                if not before and key not in counters and not self._begin(key, int(now) + hit.ttl):
                    full = True
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
        if gates & _LEDGER:
            self._record(group, counts, now)
        if full and gates & ASIDE:
            forget_uncounted(self.holds, group, counts)
        return counts

    def _record(self, group: Sequence[Hit], counts: list[Count], now: float) -> None:
        """Write the entries of a group whose hits were counted."""
        for place, hit in enumerate(group):
            into = hit.into
            if into is None:
                continue
            before, amount = counts[place], hit.amount
            key = into.charged
            if hit.gate & Gate.ENTRY:
                counts[place], key = 0, f"{into.book}{into.entry}:{REFUSED}"
            elif not isinstance(before, int) or before < 0:
                continue
            elif amount < 0:
                amount, key = min(before, -amount), f"{into.book}{into.entry}:{REFUNDED}"
            entries = self._shards[hash(key) >> SHIFT & MASK]
            value = entries.get(key)
            if value and self._dump is None:  # nearly every entry
                after = value + amount
                entries[key] = after if after < COUNTER_MAX else COUNTER_MAX
                self.changed = True
            elif amount:
                self._add_to_entry(key, amount, int(now) + into.life)

    def _add_to_entry(self, key: str, amount: int, end: int) -> None:
        """Add to an entry, which is a counter. A full store omits it; the charge itself is counted."""
        counters = self._shards[hash(key) >> _SHIFT & _MASK]
        before = counters.get(key, 0)
        if self._dump is not None:
            self._dump.before_write((key,))
        # Entries end together, by the hour, because each end has a list of its own.
        if not before and not self._begin(key, end - end % -_ENTRIES_END):
            self.unrecorded += 1
            return
        after = before + amount
        counters[key] = after if after < COUNTER_MAX else COUNTER_MAX
        self.changed = True

    def _begin(self, key: str, end: int) -> bool:
        """Make room for a counter that expires at `end`; return False if the store is full."""
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

    def _check_with_hold(self, group: Sequence[Hit]) -> list[int] | None:
        """Apply a check of counters and one TAKE, its last hit, and return the counts; None for any other
        group.

        The general way has the same result for it, and takes three times as long. Most groups with holds are
        such.
        """
        last = len(group) - 1
        take = group[last]
        if not isinstance(take, HoldHit) or take.op is not TAKE:
            return None
        shards = self._shards
        counts: list[int] = []
        refused = False
        left = COUNTER_MAX
        for at in range(last):
            hit = group[at]
            gate = hit.gate
            if hit.amount or gate & ASIDE:
                return None
            key = hit.key
            before = shards[hash(key) >> _SHIFT & _MASK].get(key, 0)
            counts.append(before)
            here = hit.limit - before
            if here < left:
                left = here
            if here <= 0 and gate & _REFUSES and (here < 0 or gate & _BUDGET):  # Hit.is_over, for a check
                refused = True
        counts.append(take_alone(self.holds, group, counts, take, left, refused=refused))
        return counts

    def _held_back(self, group: Sequence[Hit]) -> tuple[Collection[int], Mapping[int, int]]:
        """Return the hits to hold back, and the results of the hits on holds.

        If any hit refuses the group, those that hold are held back, and those that yield with room. So are
        the charges of an id that was charged before.
        """
        shards = self._shards
        before: list[int] = []
        over: list[bool] = []
        refused = on_holds = False
        for hit in group:
            key, gate = hit.key, hit.gate
            if gate & ASIDE:
                on_holds = True
                before.append(0)
                over.append(False)
                continue
            count = shards[hash(key) >> _SHIFT & _MASK].get(key, 0)
            before.append(count)
            is_over = hit.is_over(count)
            over.append(is_over)
            if is_over and gate & Gate.REFUSES:
                refused = True
        repeated: set[int] = set()
        aside: dict[int, int] = {}
        if on_holds:
            refused, repeated, aside = apply_holds(self.holds, group, before, refused=refused)
        if not refused:
            return repeated, aside
        held = {
            place
            for place, hit in enumerate(group)
            if hit.gate & Gate.HOLDS or (hit.gate & Gate.YIELDS and not over[place])
        }
        return held | repeated, aside

    def _sweep(self, now: float) -> None:
        """Remove some of the expired counters."""
        left = _SWEPT_AT_ONCE
        while left and self._ends and self._ends[0] <= now:
            ending = self._ending[self._ends[0]]
            expired = ending[-left:]
            if self._dump is not None:
                self._dump.before_sweep(expired, self._ends[0])
            del ending[-left:]
            for key in expired:
                del self._counters[key]
                self.bytes -= weight_of(key)
            left -= len(expired)
            if not ending:
                del self._ending[heapq.heappop(self._ends)]
                self.bytes -= _BYTES_OF_AN_END

    async def start(self) -> None:
        """Do nothing: there is nothing to reach."""

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def ping(self) -> None:
        """Do nothing: this store can always be reached."""

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters of a bucket, by key. Walks through all counters, a shard at a time."""
        found: dict[str, int | None] = {}
        for shard in self._counters.shards:
            found |= {
                key: count
                for key, count in shard.items()
                if key.startswith(f"{bucket}:") and not is_of_ledger(key)
            }
            await asyncio.sleep(0)
        return found

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        """Return the keys of one shard (ports.CounterStore.walk); those that have expired may be among
        them.
        """
        shard = read_number(position or "0", SHARDS)
        found = [key for key in self._counters.shards[shard] if key.startswith(begin)]
        if part:
            found = [key for key in found if key.find(part, len(begin)) >= 0]
        return WalkStep(found, "" if shard + 1 == SHARDS else str(shard + 1))

    async def read_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return those of these counters that are there."""
        found = [(key, self._counters.get(key)) for key in keys]
        return {key: value for key, value in found if value is not None}

    async def read_holds(self, keys: Sequence[str], now: int) -> dict[str, int]:
        """Return the held tokens under these keys."""
        found = [(key, self.holds.find(key)) for key in keys]
        return {key: holds.held(now) for key, holds in found if holds is not None}

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Return these entries: each is a counter, whose key has its name."""
        get, ends = self._counters.get, names or ("",)
        books = {key: {end: value for end in ends if (value := get(key + end)) is not None} for key in keys}
        return {key: book for key, book in books.items() if book}

    async def delete_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Set counters to 0, and return their last values, by key."""
        counters: dict[str, int | None] = {key: self._counters[key] for key in keys if key in self._counters}
        if self._dump is not None:
            self._dump.before_write(counters)
        for key in counters:
            self._counters[key] = 0
            self.changed = True
        return counters

    def dump(self) -> Iterator[Counter]:
        """Return all counters as they are now, in no order; some may have expired.

        They are copied during the iteration, which may happen in another thread. There is one dump at a time.
        """
        self._dump = dump = Dump(self._counters)
        return self._dumped(dump)

    def _dumped(self, dump: Dump) -> Iterator[Counter]:
        try:
            yield from dump.counters(self._ending)
        finally:
            if self._dump is dump:
                self._dump = None

    def load(self, counters: Iterable[Counter]) -> None:
        """Replace all counters by `counters`, without those that have expired.

        If these take more than the size of the store, new counters are refused until enough of them have
        expired.
        """
        now = self._clock()
        kept = {counter.key: counter for counter in counters if counter.expiry > now}
        self._counters = Shards()
        self._shards = self._counters.shards
        self._counters.update({key: counter.value for key, counter in kept.items()})
        self._ending = {}
        for key, counter in kept.items():
            self._ending.setdefault(counter.expiry, []).append(key)
        self._ends = sorted(self._ending)
        self.bytes = sum(map(weight_of, kept)) + len(self._ends) * _BYTES_OF_AN_END
