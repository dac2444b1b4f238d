"""The base of all layers: a CounterStore that passes everything to the one below."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.model import Hit
from ...ports import CounterStore, Then


class Layer:
    """A CounterStore that leaves everything to the one below; layers override what they are for."""

    for_callers = False
    """Whether its answers may be early, and so not what the store below has to say."""

    def __init__(self, below: CounterStore) -> None:
        self._below = below

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
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

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold."""
        return await self._below.read_bucket(bucket)

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket."""
        return await self._below.delete_bucket(bucket)


def without_early_answers(store: CounterStore) -> CounterStore:
    """Strip the layers that may answer early; for callers that need the real outcome, however late."""
    while isinstance(store, Layer) and store.for_callers:
        store = store._below
    return store
