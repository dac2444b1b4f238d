"""Windows of seconds in a store of their own (REDIS_PERSECOND): many short-lived counters, kept away from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ...core.decision import Count
from ...core.errors import StoreError
from ...core.matching.keys import window_of
from ...core.model import Hit
from ...ports import CounterStore, Outcome, Then
from ..batch import Part, joined, together


class SecondsApart:
    """Two stores: counters whose window is of seconds are in `seconds`, all others in `others`.

    A request that has hits in both is one step in each, and not in both together: whether one holds back the other is
    not asked.
    """

    def __init__(self, others: CounterStore, seconds: CounterStore) -> None:
        self._others = others
        self._seconds = seconds

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        parts = [_part(groups, of_seconds) for of_seconds in (False, True)]

        def both(outcomes: list[Sequence[Outcome]]) -> None:
            then(_whole(groups, parts, outcomes))

        of_others, of_seconds = together(2, both)
        self._others.hit(parts[0].groups, of_others)
        self._seconds.hit(parts[1].groups, of_seconds)

    async def start(self) -> None:
        """Reach both."""
        await self._both(lambda store: store.start())

    async def close(self) -> None:
        """Close both."""
        await self._both(lambda store: store.close())

    async def ping(self) -> None:
        """Raise StoreError unless both answer."""
        await self._both(lambda store: store.ping())

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold in both."""
        return await self._others.read_bucket(bucket) | await self._seconds.read_bucket(bucket)

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket in both."""
        return await self._others.delete_bucket(bucket) | await self._seconds.delete_bucket(bucket)

    async def _both(self, do: Callable[[CounterStore], Awaitable[None]]) -> None:
        errors = await asyncio.gather(do(self._others), do(self._seconds), return_exceptions=True)
        for name, error in zip(("", "for windows of seconds: "), errors, strict=True):
            if isinstance(error, StoreError):
                raise StoreError(f"{name}{error}")
            if error is not None:
                raise error


def is_of_seconds(key: str) -> bool:
    """Whether a counter's window is of seconds: `…}:second:…`, `…}:15second:…`."""
    return window_of(key).endswith("second")


def _part(groups: Sequence[Sequence[Hit]], of_seconds: bool) -> Part:
    places = [
        (number, [place for place, hit in enumerate(group) if is_of_seconds(hit.key) is of_seconds])
        for number, group in enumerate(groups)
    ]
    return Part([[groups[number][place] for place in chosen] for number, chosen in places], places)


def _whole(
    groups: Sequence[Sequence[Hit]], parts: Sequence[Part], outcomes: Sequence[Sequence[Outcome]]
) -> list[Outcome]:
    """A group that failed in both is an error; in one, its hits there are."""
    whole: list[Outcome] = []
    counts: list[list[Count]] = joined(groups, parts, outcomes)
    for of_group, *of_parts in zip(counts, *outcomes, strict=True):
        failures = [outcome for outcome in of_parts if isinstance(outcome, StoreError)]
        everything = of_group and all(isinstance(count, StoreError) for count in of_group)
        whole.append(failures[0] if failures and everything else of_group)
    return whole
