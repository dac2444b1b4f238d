"""Windows of seconds in a store of their own (REDIS_PERSECOND), away from long-lived counters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ...core.errors import StoreError
from ...core.matching.keys import window_of
from ...ports import AmendmentStore, CounterStore, EventStore, OnOutcomes, Outcome, ReplicaStore, WalkStep
from ..batch import Groups, Origin, Part, callbacks_for, join

_SECONDS = "seconds "
"""The prefix of positions in the store of seconds."""


class PerSecondStore:
    """Two stores: counters of windows of seconds are in `seconds`, all others in `others`.

    The hits of a request are atomic in each store, but not over both: a refusal in one holds back no hit in
    the other.
    """

    def __init__(self, others: CounterStore, seconds: CounterStore) -> None:
        self._others = others
        self._seconds = seconds

    @property
    def amendments(self) -> AmendmentStore:
        """Return the amendments, which are in the store of the longer windows."""
        return self._others.amendments

    @property
    def replicas(self) -> ReplicaStore:
        """Return the register of the store that has the amendments."""
        return self._others.replicas

    @property
    def events(self) -> EventStore:
        """Return the events of the store that has the amendments."""
        return self._others.events

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        parts = [_part(groups, of_seconds) for of_seconds in (False, True)]

        def on_both(outcomes: list[Sequence[Outcome]]) -> None:
            on_outcomes(_joined(groups, parts, outcomes))

        on_others, on_seconds = callbacks_for(2, on_both)
        self._others.hit(parts[0].groups, on_others)
        self._seconds.hit(parts[1].groups, on_seconds)

    async def start(self) -> None:
        """Reach both stores."""
        await self._both(lambda store: store.start())

    async def close(self) -> None:
        """Close both stores."""
        await self._both(lambda store: store.close())

    async def ping(self) -> None:
        """Raise StoreError unless both stores can be reached."""
        await self._both(lambda store: store.ping())

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters of a bucket in both stores, by key."""
        return await self._others.read_bucket(bucket) | await self._seconds.read_bucket(bucket)

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        """Return some keys of the other windows, and after these the keys of seconds."""
        of_seconds = position.startswith(_SECONDS)
        store = self._seconds if of_seconds else self._others
        keys, following = await store.walk(begin, part, position.removeprefix(_SECONDS))
        if of_seconds:
            return WalkStep(keys, following and _SECONDS + following)
        return WalkStep(keys, following or _SECONDS)

    async def read_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return those of these counters that are there, each from its store."""
        others = [key for key in keys if not is_of_seconds(key)]
        seconds = [key for key in keys if is_of_seconds(key)]
        return await self._others.read_counters(others) | await self._seconds.read_counters(seconds)

    async def read_holds(self, keys: Sequence[str], now: int) -> dict[str, int]:
        """Return the held tokens; no rule with windows of seconds has holds."""
        return await self._others.read_holds(keys, now)

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Return the entries in these books, from whichever store has them."""
        return await self._seconds.read_books(keys, names) | await self._others.read_books(keys, names)

    async def delete_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Delete counters, each in its store."""
        others = [key for key in keys if not is_of_seconds(key)]
        seconds = [key for key in keys if is_of_seconds(key)]
        return await self._others.delete_counters(others) | await self._seconds.delete_counters(seconds)

    async def _both(self, do: Callable[[CounterStore], Awaitable[None]]) -> None:
        errors = await asyncio.gather(do(self._others), do(self._seconds), return_exceptions=True)
        for name, error in zip(("", "for windows of seconds: "), errors, strict=True):
            if isinstance(error, StoreError):
                raise StoreError(f"{name}{error}")
            if error is not None:
                raise error


def is_of_seconds(key: str) -> bool:
    """Return whether a counter's window is of seconds: `…}:second:…`, `…}:15second:…`."""
    return window_of(key).endswith("second")


def _part(groups: Groups, of_seconds: bool) -> Part:
    origins = [
        Origin(number, [index for index, hit in enumerate(group) if is_of_seconds(hit.key) is of_seconds])
        for number, group in enumerate(groups)
    ]
    return Part([[groups[number][index] for index in hits] for number, hits in origins], [*origins])


def _joined(groups: Groups, parts: Sequence[Part], outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Join the outcomes of both stores.

    The outcome of a group is an error if all its hits failed; otherwise each failed hit is an error.
    """
    joined: list[Outcome] = []
    for counts, *of_stores in zip(join(groups, parts, outcomes), *outcomes, strict=True):
        errors = [outcome for outcome in of_stores if isinstance(outcome, StoreError)]
        nothing = counts and all(isinstance(count, StoreError) for count in counts)
        joined.append(errors[0] if errors and nothing else counts)
    return joined
