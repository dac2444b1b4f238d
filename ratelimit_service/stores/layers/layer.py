"""The base of all layers: a CounterStore over another one."""

from __future__ import annotations

from collections.abc import Sequence

from ...ports import AmendmentStore, CounterStore, EventStore, OnOutcomes, ReplicaStore, WalkStep
from ..batch import Groups


class Layer:
    """A CounterStore that passes everything to the one below; each layer overrides what it changes."""

    for_callers = False
    """Whether it may return before the store below does."""

    def __init__(self, below: CounterStore) -> None:
        self._below = below

    @property
    def amendments(self) -> AmendmentStore:
        """Return the amendments of the store below."""
        return self._below.amendments

    @property
    def replicas(self) -> ReplicaStore:
        """Return the register of the store that has the amendments."""
        return self._below.replicas

    @property
    def events(self) -> EventStore:
        """Return the events of the store that has the amendments."""
        return self._below.events

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        self._below.hit(groups, on_outcomes)

    async def start(self) -> None:
        """Reach the store below."""
        await self._below.start()

    async def close(self) -> None:
        """Close the store below."""
        await self._below.close()

    async def ping(self) -> None:
        """Raise StoreError unless the store below can be reached."""
        await self._below.ping()

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters of a bucket, by key."""
        return await self._below.read_bucket(bucket)

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        """Return some keys of the store below."""
        return await self._below.walk(begin, part, position)

    async def read_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return those of these counters that are in the store below."""
        return await self._below.read_counters(keys)

    async def read_holds(self, keys: Sequence[str], now: int) -> dict[str, int]:
        """Return the held tokens in the store below."""
        return await self._below.read_holds(keys, now)

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Return the entries in these books of the store below."""
        return await self._below.read_books(keys, names)

    async def delete_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Delete counters of the store below."""
        return await self._below.delete_counters(keys)


def without_early_answers(store: CounterStore) -> CounterStore:
    """Strip the layers that may answer early; for callers that need the real outcome, however late."""
    while isinstance(store, Layer) and store.for_callers:
        store = store._below
    return store
