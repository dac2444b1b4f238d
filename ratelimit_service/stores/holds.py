"""The holds of the memory store: those of each bucket, and the part of a group that is about holds.

They are not in snapshots: a restart ends all holds, and the requests in flight are charged all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import cast

from ..core.holds.hit import HoldHit, Op, done, refused_by
from ..core.holds.state import Holds
from ..core.model import Gate, Hit

_BYTES_OF_A_BUCKET = 2_000
_BYTES_OF_AN_ID = 160


class AllHolds:
    """The holds of each bucket, in about `size` bytes.

    At the bound those that were used least recently are evicted: a hold is worth less than a charge, and an
    evicted one only lets a request pass that it would have refused.
    """

    def __init__(self, size: int, new: Callable[[], Holds] = Holds) -> None:
        self._size = size
        self._new = new
        self._holds: OrderedDict[str, Holds] = OrderedDict()
        self.bytes = 0
        """About the bytes of memory that they take."""

    def __len__(self) -> int:
        return len(self._holds)

    def find(self, key: str) -> Holds | None:
        """Return the holds of a bucket, if there have been any."""
        return self._holds.get(key)

    def apply(self, hit: HoldHit) -> int:
        """Apply a hit, and return its result (core/holds/hit.py)."""
        holds = self._holds.get(hit.key)
        if holds is None:
            holds = self._holds[hit.key] = self._new()
            self.bytes += getsizeof(hit.key) + _BYTES_OF_A_BUCKET
        else:
            self._holds.move_to_end(hit.key)
        ids = len(holds.ids)
        tokens, expired = holds.apply(hit)
        self.bytes += (len(holds.ids) - ids) * _BYTES_OF_AN_ID
        while self.bytes > self._size and len(self._holds) > 1:
            self.forget(next(iter(self._holds)))
        return done(tokens, expired)

    def forget(self, key: str) -> None:
        """Drop the holds of a bucket."""
        holds = self._holds.pop(key, None)
        if holds is not None:
            self.bytes -= getsizeof(key) + _BYTES_OF_A_BUCKET + len(holds.ids) * _BYTES_OF_AN_ID


def apply_holds(
    all_holds: AllHolds, group: Sequence[Hit], before: Sequence[int], *, refused: bool
) -> tuple[bool, set[int], dict[int, int]]:
    """Apply the hits on holds of a group whose counters held `before`.

    Return whether the group is refused, the places of charges that were counted before, and the results by
    place. The group is refused if its counters refuse it (`refused`), or too much is held of a budget.
    """
    results: dict[int, int] = {}
    repeated: set[int] = set()
    hits = [(place, cast(HoldHit, hit)) for place, hit in enumerate(group) if hit.gate & Gate.ASIDE]
    for place, hit in hits:
        holds = all_holds.find(hit.key)
        if holds is None or hit.op is Op.RELEASE:
            continue
        own = [
            at
            for at, other in enumerate(group)
            if other.key.startswith(hit.bucket) and not other.gate & Gate.ASIDE
        ]
        if hit.op is Op.CHARGE:
            if hit.id and holds.knows(hit):
                repeated.update(own)
                results[place] = 0
            continue
        limits = [(before[at], group[at].limit) for at in own]
        held = holds.held(hit.now)
        if all([used < limit for used, limit in limits]) and any(
            [used + held >= limit for used, limit in limits]
        ):
            results[place] = refused_by(held, holds.delay())
    refused = refused or any(result < 0 for result in results.values())
    for place, hit in hits:
        if hit.op is not Op.TAKE or not refused:
            if place not in results:
                results[place] = all_holds.apply(hit)
            continue
        results.setdefault(place, 0)
        holds = all_holds.find(hit.key)
        if holds is not None:
            holds.refuse(hit)
    return refused, repeated, results
