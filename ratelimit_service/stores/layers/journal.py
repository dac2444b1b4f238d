"""The journal: charges that are still to be written to Redis, in memory and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ...core.gates import Gate
from ...core.model import Hit
from ..batch import Batch, Groups
from ..lanes import Place

_MOST_HITS_AT_ONCE = 1_000
"""Batches that were never applied are merged until they have this many hits."""

_KEPT_FOR_OTHERS = 8
"""One part in this many of the journal is reserved for batches that wait only briefly; batches for a server
that stays away do not use it."""

_BYTES_OF_A_HIT = 400
"""Bytes of memory of a hit whose key is of ordinary length, as docs/reliability.md has it."""

_ORDINARY_KEY = 60


class Journal:
    """At most `capacity` hits, in a queue for each place, so that no place waits for another one.

    Callers choose the length of keys, so the bytes are bounded too: by the bytes of `capacity` hits with keys
    of ordinary length.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queues: dict[Place, deque[Batch]] = {}
        self._bytes = 0
        self.hits = 0
        """The number of hits in the journal."""
        self.dropped = 0
        """The number of lost hits: there was no room for them, they were not settled in time, or Redis
        refused their counters."""

    def add(self, batch: Batch, *, for_long: bool = False) -> None:
        """Keep the groups of a batch that write. Batches that wait `for_long` leave room for others."""
        groups = [group for group in batch.groups if _writes(group)]
        size = sum(map(len, groups))
        if not size:
            return
        # A batch that may have been applied must be sent again exactly as it was.
        kept = batch if batch.sent is not None else replace(batch, groups=groups)
        capacity = self._capacity - self._capacity // _KEPT_FOR_OTHERS if for_long else self._capacity
        full = self._bytes + _bytes(kept) > capacity * _BYTES_OF_A_HIT
        if full or self.hits + size > capacity:
            self.dropped += size
            return
        self.put_back(kept)

    def put_back(self, batch: Batch) -> None:
        """Put a batch behind the others of its place, even beyond the capacity."""
        self._queues.setdefault(batch.place, deque()).append(batch)
        self.hits += _hits(batch)
        self._bytes += _bytes(batch)

    def give_up(self, batch: Batch) -> None:
        """Count the charges of a batch that was taken out as lost."""
        self.dropped += sum(bool(hit.amount) for group in batch.groups for hit in group)

    def places(self) -> list[Place]:
        """Return the places that have batches."""
        return list(self._queues)

    def batches_at(self, place: Place) -> int:
        """Return the number of batches of a place."""
        queue = self._queues.get(place)
        return len(queue) if queue else 0

    def next_at(self, place: Place) -> Batch:
        """Return the next batch of a place, which stays in the journal."""
        return self._queues[place][0]

    def take(self, place: Place) -> Batch:
        """Take out the next batch of a place, merged with those behind it if none of them was ever
        applied.
        """
        queue = self._queues[place]
        batch = queue.popleft()
        self._count_out(batch)
        if batch.sent is None:
            groups = list(batch.groups)
            size = sum(map(len, groups))
            while queue and queue[0].sent is None and size < _MOST_HITS_AT_ONCE:
                more = queue.popleft()
                self._count_out(more)
                groups += [_with_longer_lives(group, more.kept_at - batch.kept_at) for group in more.groups]
                size += sum(map(len, more.groups))
            batch = replace(batch, groups=groups)
        if not queue:
            del self._queues[place]
        return batch

    def _count_out(self, batch: Batch) -> None:
        self.hits -= _hits(batch)
        self._bytes -= _bytes(batch)


def still_counting(batch: Batch, now: float) -> Groups:
    """Return the groups of a batch as they are to be written `now`; hits of ended windows are left out."""
    groups = [_with_longer_lives(group, batch.kept_at - now) for group in batch.groups]
    return [[_last(hit) for hit in group if hit.ttl > 0 or hit.gate & Gate.LEDGER] for group in groups]


def _last(hit: Hit) -> Hit:
    """Return a hit with a valid time to live, because ledger entries outlive the window."""
    return hit if hit.ttl > 0 else hit.changed(ttl=1)


def _writes(group: Sequence[Hit]) -> bool:
    return any(hit.amount for hit in group)


def _hits(batch: Batch) -> int:
    return sum(len(group) for group in batch.groups if _writes(group))


def _bytes(batch: Batch) -> int:
    """Estimate the bytes of memory of a batch."""
    return sum([_bytes_of(hit) for group in batch.groups for hit in group])


def _bytes_of(hit: Hit) -> int:
    """Estimate the bytes of a hit. A long bucket is in the keys of a ledger's book and entry as well.

    Ledgered hits of ordinary keys count as others do, so the journal has room for as many of them.
    """
    size = _BYTES_OF_A_HIT - _ORDINARY_KEY + len(hit.key)
    return size if hit.into is None else size + 2 * max(0, len(hit.into.book) - _ORDINARY_KEY)


def _with_longer_lives(group: Sequence[Hit], seconds: float) -> Sequence[Hit]:
    """Return a group with times to live that are longer by `seconds`, which may be negative."""
    more = int(seconds)
    return [hit.changed(ttl=hit.ttl + more) for hit in group]
