"""What the layers of a store share: batches, the parts that they are split into, and callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.gates import HELD_BACK, Gate
from ..core.model import Hit
from ..ports import Outcome
from .lanes import EVERYWHERE, Lane, Place

T = TypeVar("T")

Groups = Sequence[Sequence[Hit]]
"""The hits of requests, one group a request."""

Counts = list[list[Count]]
"""The counts of the hits of groups, in their order."""


@dataclass(slots=True, init=False)
class Batch:
    """Groups that one Redis server applies in one step, by one call of the script.

    Without groups, the call writes the register of its lane and nothing else.
    """

    groups: Groups
    place: Place
    sent: Lane | None
    """The lane that carries it. Once Redis may have applied it, no other lane may carry it."""
    hand_over: int
    """The call of `SettlingStore.hit` that it belongs to. Several failed batches of one call count as one
    failure."""
    kept_at: float
    """When the journal took it, in the loop's time."""

    # The constructor that `dataclass` makes would be interpreted where this module is compiled.
    def __init__(
        self,
        groups: Groups,
        place: Place = EVERYWHERE,
        sent: Lane | None = None,
        hand_over: int = 0,
        kept_at: float = 0.0,
    ) -> None:
        self.groups = groups
        self.place = place
        self.sent = sent
        self.hand_over = hand_over
        self.kept_at = kept_at


MORE_THAN_A_COUNTER = HELD_BACK | Gate.LEDGER
"""The gates of hits for which a store needs more than a counter, an amount and a time to live."""


def is_check(groups: Groups) -> bool:
    """Return whether groups are one check of one counter, as half of the calls for a Cluster are."""
    if len(groups) != 1 or len(groups[0]) != 1:
        return False
    hit = groups[0][0]
    return not hit.amount and not hit.gate & MORE_THAN_A_COUNTER


OnApplied = Callable[[Counts | StoreError], None]
"""Called by a Redis store when a batch was applied or has failed."""

OnEachApplied = Callable[[int, Counts | StoreError], None]
"""As OnApplied, for each of several batches: the first argument is its index."""


class Origin(NamedTuple):
    """Where a group of a part comes from: the index of a group of the batch, and the indexes of its hits."""

    group: int
    hits: Sequence[int]


class Part:
    """The hits of a batch whose keys are in one place, and the origin of each of its groups.

    The origin of a whole group is its index alone.
    """

    __slots__ = ("groups", "origins", "place")

    def __init__(
        self, groups: list[Sequence[Hit]], origins: list[int | Origin], place: Place = EVERYWHERE
    ) -> None:
        self.groups = groups
        self.origins = origins
        self.place = place


class Fate(Enum):
    """What a failed call did to the counters, and whether to send it again (stores/redis/errors.py)."""

    LOST = "no reply: it may have been applied"
    UNCLEAR = "an error reply that does not say: it may have been applied"
    REFUSED = "nothing was applied; the server may accept it later"
    BAD_LANE = "nothing was applied, and never will be by this lane; another lane can carry it"
    FORBIDDEN = "nothing was applied, because of its keys"


class CallFailed(StoreError):
    """A call of the script that returned no counts.

    `partly`: only a part of Redis fails, one server of several.
    """

    def __init__(self, why: str, fate: Fate = Fate.LOST, *, partly: bool = False) -> None:
        super().__init__(why)
        self.fate = fate
        self.partly = partly


def failed(groups: Groups, error: StoreError) -> list[Outcome]:
    """Return `error` as the outcome of each group that has hits."""
    return [error if group else () for group in groups]


def join(groups: Groups, parts: Sequence[Part], outcomes: Sequence[Sequence[Outcome]]) -> Counts:
    """Put the outcomes of the parts of `groups` back into the order of the hits."""
    counts: list[Any] = [[]] * len(groups)
    for part, of_part in zip(parts, outcomes, strict=True):
        for origin, outcome in zip(part.origins, of_part, strict=True):
            if isinstance(origin, int):
                error = isinstance(outcome, StoreError)
                counts[origin] = [outcome] * len(groups[origin]) if error else outcome
                continue
            group, hits = origin
            if not counts[group]:
                counts[group] = [0] * len(groups[group])
            for index, hit in enumerate(hits):
                counts[group][hit] = outcome if isinstance(outcome, StoreError) else outcome[index]
    return counts


def callbacks_for(number: int, on_all: Callable[[list[T]], None]) -> list[Callable[[T], None]]:
    """Return `number` callbacks; once all have been called, pass their results in order to `on_all`."""
    results: list[Any] = [None] * number
    missing = number

    def on_result(index: int, result: T) -> None:
        nonlocal missing
        results[index] = result
        missing -= 1
        if not missing:
            on_all(results)

    return [partial(on_result, index) for index in range(number)]


async def result_of(begin: Callable[[Callable[[T], None]], None]) -> T:
    """Pass a callback to `begin`, and return its result.

    The work continues if the awaiting task is cancelled.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    begin(lambda result: None if future.done() else future.set_result(result))
    return await future


class InFlight:
    """Counts the calls in flight, for waiting until there are none."""

    def __init__(self) -> None:
        self.count = 0
        self._none: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Count one more."""
        self.count += 1

    def end(self) -> None:
        """Count one less."""
        self.count -= 1
        if not self.count and self._none is not None:
            self._none.set_result(None)
            self._none = None

    async def drained(self) -> None:
        """Wait until there are none, including calls that begin in the callback of the last one."""
        while self.count:
            if self._none is None:
                self._none = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._none)
