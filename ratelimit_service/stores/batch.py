"""A batch that takes several calls: its parts, the wait for their outcomes, and these put together again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import Hit
from ..ports import Outcome

T = TypeVar("T")

Place = int | str
"""What the keys of one call have in common: their slot, their hash tag, or nothing but Redis (EVERYWHERE)."""

EVERYWHERE: Place = -1

REGISTER_TTL = 3_600
"""How long a register is remembered, in seconds: a batch that cannot be settled within it is given up, and counted."""


class Part(NamedTuple):
    """What one call of the script can apply: some hits of some groups.

    `places` says for each group of the part which one of all groups it is of, and which of its hits these are; `where`
    is the place of their keys. A lane has a register in each place: where lanes are used again in the same place, there
    are few registers.
    """

    groups: Sequence[Sequence[Hit]]
    places: Sequence[tuple[int, Sequence[int]]]
    where: Place = EVERYWHERE


class Batch(NamedTuple):
    """One call of the script: hits that one Redis server applies in one step.

    Without groups, it writes the register of its lane and nothing else.
    """

    groups: Sequence[Sequence[Hit]]
    lane: str
    number: str
    where: Place = EVERYWHERE


Applied = Callable[[list[list[Count]] | StoreError], None]


class Fate(Enum):
    """What a failed call did to the counters, and what a later one can do; stores/redis/errors.py has the table."""

    LOST = "no reply: it may have been applied"
    UNCLEAR = "an error reply that does not tell: it may have been applied"
    REFUSED = "nothing was applied; the server may accept it later"
    BAD_LANE = "nothing was applied, and nothing can be by this lane; by another one it can"
    FORBIDDEN = "nothing was applied, because of its keys"


class CallFailed(StoreError):
    """A call of the script that brought no counts. `partly`: only a part of Redis fails, a server of several."""

    def __init__(self, why: str, fate: Fate = Fate.LOST, *, partly: bool = False) -> None:
        super().__init__(why)
        self.fate = fate
        self.partly = partly


def joined(
    groups: Sequence[Sequence[Hit]], parts: Sequence[Part], outcomes: Sequence[Sequence[Outcome]]
) -> list[list[Count]]:
    """The outcomes of the parts, put together again in the order of the hits of each group."""
    whole: list[list[Count]] = [[0] * len(group) for group in groups]
    for part, of_part in zip(parts, outcomes, strict=True):
        for (group, places), outcome in zip(part.places, of_part, strict=True):
            for number, place in enumerate(places):
                whole[group][place] = outcome if isinstance(outcome, StoreError) else outcome[number]
    return whole


def together(number: int, then: Callable[[list[T]], None]) -> list[Callable[[T], None]]:
    """As many callbacks; once each was called, `then` is told what they were told, in their order."""
    told: list[Any] = [None] * number
    waiting = number

    def answered(place: int, what: T) -> None:
        nonlocal waiting
        told[place] = what
        waiting -= 1
        if not waiting:
            then(told)

    return [partial(answered, place) for place in range(number)]


async def told(begin: Callable[[Callable[[T], None]], None]) -> T:
    """What the callback is told that `begin` is given. What was begun goes on where the task that waits is cancelled."""
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    begin(lambda what: None if answer.done() else answer.set_result(what))
    return await answer


class UnderWay:
    """How many calls are under way, for whoever must wait until there are none."""

    def __init__(self) -> None:
        self.number = 0
        self._none: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """One more."""
        self.number += 1

    def end(self) -> None:
        """One less."""
        self.number -= 1
        if not self.number and self._none is not None:
            self._none.set_result(None)
            self._none = None

    async def none(self) -> None:
        """Wait until there are none. What is called back at the end of the last one may begin another: that one, too."""
        while self.number:
            if self._none is None:
                self._none = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._none)
