"""Hits that are still to be written to Redis, in memory and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ...core.model import Hit
from ..batch import EVERYWHERE, Place
from .moments import Moment

_MOST_AT_ONCE = 1_000
"""Hits of the journal in one call."""


class Entry(NamedTuple):
    """A batch of the journal; with a lane where it was sent and its outcome is not known.

    `at` is when it was kept, in the loop's time; `before` is a moment before it was sent, if one is known.
    """

    groups: Sequence[Sequence[Hit]]
    at: float
    where: Place = EVERYWHERE
    lane: str = ""
    number: str = ""
    before: Moment | None = None

    @property
    def writing(self) -> int:
        """How many of its hits write something."""
        return sum(bool(hit.amount) for group in self.groups for hit in group)


_BYTES_OF_A_HIT = 400
"""Bytes of memory of a hit whose key is of ordinary length, as docs/reliability.md has it."""


class Journal:
    """At most `capacity` hits, in a queue for each place, so that no place waits for another one.

    They take no more memory than as many of ordinary length: strangers choose what is in a key.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queues: dict[Place, deque[Entry]] = {}
        self._bytes = 0
        self.hits = 0
        """How many hits it holds."""
        self.dropped = 0
        """How many hits are lost: it had no room for them, could not settle them in time, or Redis refused their counters."""

    def add(self, entry: Entry, *, long: bool = False) -> None:
        """Keep the hits of `entry` that write something. Those that will wait for `long` leave room for others."""
        groups = [group for group in entry.groups if any(hit.amount for hit in group)]
        size = sum(map(len, groups))
        if not size:
            return
        # One that was sent must be sent again just as it was.
        kept = entry if entry.lane else entry._replace(groups=groups)
        capacity = self._capacity - self._capacity // 8 if long else self._capacity
        full = self._bytes + _bytes(kept) > capacity * _BYTES_OF_A_HIT
        if full or self.hits + size > capacity:
            self.dropped += size
            return
        self._append(kept)

    def put_back(self, entry: Entry) -> None:
        """Put back an entry that was taken out, behind the others of its place."""
        self._append(entry)

    def give_up(self, entry: Entry) -> None:
        """Count the hits of an entry that was taken out as lost."""
        self.dropped += entry.writing

    def places(self) -> list[Place]:
        """The places that have entries."""
        return list(self._queues)

    def entries(self, where: Place) -> int:
        """How many entries a place has."""
        queue = self._queues.get(where)
        return len(queue) if queue else 0

    def take(self, where: Place) -> Entry:
        """Take the next entry of a place out; those that were never sent are put together, up to a bound."""
        queue = self._queues[where]
        entry = queue.popleft()
        self._remove(entry)
        if not entry.lane:
            groups = list(entry.groups)
            size = sum(map(len, groups))
            while queue and not queue[0].lane and size < _MOST_AT_ONCE:
                more = queue.popleft()
                self._remove(more)
                groups += [_aged(group, more.at - entry.at) for group in more.groups]
                size += sum(map(len, more.groups))
            entry = entry._replace(groups=groups)
        if not queue:
            del self._queues[where]
        return entry

    def _append(self, entry: Entry) -> None:
        self._queues.setdefault(entry.where, deque()).append(entry)
        self.hits += _kept(entry)
        self._bytes += _bytes(entry)

    def _remove(self, entry: Entry) -> None:
        self.hits -= _kept(entry)
        self._bytes -= _bytes(entry)


def still_counting(entry: Entry, now: float) -> list[Sequence[Hit]]:
    """The groups of an entry as they are to be written at `now`, without the hits whose windows are over by then."""
    aged = (_aged(group, entry.at - now) for group in entry.groups)
    return [[hit for hit in group if hit.ttl > 0] for group in aged]


def _kept(entry: Entry) -> int:
    return sum(len(group) for group in entry.groups if any(hit.amount for hit in group))


def _bytes(entry: Entry) -> int:
    """The memory that an entry takes, about."""
    return sum([_BYTES_OF_A_HIT - 60 + len(hit.key) for group in entry.groups for hit in group])


def _aged(group: Sequence[Hit], seconds: float) -> Sequence[Hit]:
    """A group as if it had been handed over so much earlier: its times to live are longer by that."""
    more = int(seconds)
    return [Hit(hit.key, hit.amount, ttl=hit.ttl + more, limit=hit.limit, gate=hit.gate) for hit in group]
