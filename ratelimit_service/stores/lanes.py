"""Lanes: how a batch is applied once, however often it is sent.

A lane carries one batch at a time, each under a higher number. Redis keeps the number of the last batch in
the lane's register, and applies no batch whose number it finds there. After a batch of unknown outcome, a
lane carries no other batch: the first call may still arrive, and must find its own number in the register.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from ..core.cache import MIB, BoundedCache
from .batch_age import Moment

REGISTER_TTL = 3_600
"""Seconds for which Redis keeps a register. A batch that is not settled within half of this time counts as
lost."""

Place = int | str
"""The common part of all keys of one script call: a slot, a hash tag, or nothing (EVERYWHERE)."""

EVERYWHERE: Place = -1

_FREE_LANES_BYTES = 8 * MIB
"""Bytes of the free lanes of all places: enough for every slot, or for some 20,000 buckets behind a proxy."""


@dataclass(slots=True, eq=False)
class Lane:
    """A lane, with the `number` of the batch that it carried last.

    `before` is the last reading of all clocks before that batch was sent, if there was one.
    """

    name: str
    free: list[Lane] = field(repr=False)
    """The free lanes of its place, which it joins once its batch is done."""
    number: int = 0
    before: Moment | None = None
    register: tuple[str, str] = ("", "")
    """A hash tag, and the key of its register with that tag, which script.py makes once."""


class Lanes:
    """The lanes of this process. Each stays in one place, because it has a register wherever it is used."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex[:12]
        """The prefix of the names of its lanes."""
        self._free: BoundedCache[Place, list[Lane]] = BoundedCache(_FREE_LANES_BYTES, _weight)
        self._made = 0
        self.number = 0
        """The number of the batch that was sent last."""

    def take(self, place: Place, before: Moment | None) -> Lane:
        """Take a lane for a batch that is about to be sent to a place, and give it the next number."""
        free = self._free.newest(place)
        if free is None:
            free = self._free.get(place)
            if free is None:
                free = []
                self._free.put(place, free)
        if free:
            lane = free.pop()
        else:
            self._made += 1
            lane = Lane(f"{self.name}-{self._made}", free)
        self.number = lane.number = self.number + 1
        lane.before = before
        return lane


def _weight(place: Place, lanes: list[Lane]) -> int:
    """Estimate the bytes of memory of a place and a few lanes."""
    return 400 + (len(place) if isinstance(place, str) else 0)
