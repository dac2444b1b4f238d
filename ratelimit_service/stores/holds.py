"""The holds of the memory store: those of each bucket, and the part of a group that is about holds.

They are not in snapshots: a restart ends all holds, but the requests in flight are still charged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import cast

from ..core.decision import Count
from ..core.holds.hit import ASIDE, CHARGE, REFUND, RELEASE, TAKE, HoldHit, done, refused_by
from ..core.holds.state import Holds
from ..core.model import Hit

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
            if not hit.id:
                tokens, expired = holds.apply(hit)
                return done(tokens, expired) if expired else tokens
        ids = len(holds.ids)
        tokens, expired = holds.apply(hit)
        self.bytes += (len(holds.ids) - ids) * _BYTES_OF_AN_ID
        while self.bytes > self._size and len(self._holds) > 1:
            self.forget(next(iter(self._holds)))
        return done(tokens, expired)

    def forget_id(self, hit: HoldHit) -> None:
        """Forget that the charge or the refund of a hit came back."""
        holds = self._holds.get(hit.key)
        if holds is not None:
            ids = len(holds.ids)
            holds.forget(hit)
            self.bytes += (len(holds.ids) - ids) * _BYTES_OF_AN_ID

    def used(self, key: str) -> None:
        """Evict the holds of a bucket after those of all others."""
        self._holds.move_to_end(key)

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
    on_holds = [(place, cast(HoldHit, hit)) for place, hit in enumerate(group) if hit.gate & ASIDE]
    for place, hit in on_holds:
        op = hit.op
        holds = all_holds.find(hit.key) if op is not RELEASE else None
        if holds is None:
            continue
        if op is CHARGE or op is REFUND:
            if hit.id and holds.knows(hit):
                results[place] = 0
                repeated.update(_own(group, hit.bucket))
        elif (held := holds.held(hit.now)) and _exceeds(group, before, hit, held):
            results[place] = refused_by(held, holds.delay())
            refused = True
    for place, hit in on_holds:
        if not refused or hit.op is not TAKE:
            if place not in results:
                results[place] = all_holds.apply(hit)
            continue
        results.setdefault(place, 0)
        holds = all_holds.find(hit.key)
        if holds is not None:
            holds.refuse(hit)
    return refused, repeated, results


def forget_uncounted(all_holds: AllHolds, group: Sequence[Hit], counts: Sequence[Count]) -> None:
    """Forget the ids of the charges and refunds of a group that no counter of their bucket has counted.

    Their callers get an error, and may send them again.
    """
    for hit in group:
        if isinstance(hit, HoldHit) and hit.id and hit.op is not RELEASE:
            own = _own(group, hit.bucket)
            if own and not any([isinstance(counts[at], int) for at in own]):
                all_holds.forget_id(hit)


def take_alone(
    all_holds: AllHolds,
    group: Sequence[Hit],
    before: Sequence[int],
    hit: HoldHit,
    left: int,
    *,
    refused: bool,
) -> int:
    """Apply a TAKE that is the only hit on holds of its group, as apply_holds does, and return its result.

    `left` is the least of what is left of the counters of the group.
    """
    holds: Holds | None = all_holds.find(hit.key)
    result = 0
    if holds is not None:
        if not refused:
            tokens = holds.take_again(hit, left)
            if tokens:
                all_holds.used(hit.key)
                return tokens
        held = holds.held(hit.now)
        if held and left <= held and _exceeds(group, before, hit, held):
            result = refused_by(held, holds.delay())
            refused = True
    if not refused:
        return all_holds.apply(hit)
    if holds is not None:
        holds.refuse(hit)
    return result


def _exceeds(group: Sequence[Hit], before: Sequence[int], hit: HoldHit, held: int) -> bool:
    """Return whether a budget has room in each window, but none once held tokens are counted."""
    too_much = False
    for at, used in enumerate(before):
        other = group[at]
        left = other.limit - used
        if left <= held and not other.gate & ASIDE and other.key.startswith(hit.bucket):
            if left <= 0:
                return False
            too_much = True
    return too_much


def _own(group: Sequence[Hit], bucket: str) -> list[int]:
    """Return the places of the counters of a bucket."""
    return [at for at, other in enumerate(group) if not other.gate & ASIDE and other.key.startswith(bucket)]
