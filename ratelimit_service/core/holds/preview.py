"""Predicts how holds would affect a request. Holds are read, and none is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..decision import Count
from ..gates import Gate
from ..model import Hit
from .hit import HoldHit, Op, refused_by

_DELAY = 2
"""Seconds until a retry if the time in flight is not known (state.Holds.delay)."""


def foresee(group: Sequence[Hit], counts: Sequence[Count], held: Mapping[str, int]) -> dict[int, int]:
    """Return the results of the hits on holds in a group, by place. `held` has the held tokens by the keys of
    holds.

    `counts` are those of its counters. A check is refused as in stores/holds.py and holds.lua, and holds
    nothing otherwise.
    """
    found: dict[int, int] = {}
    for place, hit in enumerate(group):
        if not isinstance(hit, HoldHit):
            continue
        found[place] = 0
        tokens = held.get(hit.key, 0)
        if hit.op is not Op.TAKE or not tokens:
            continue
        uses = [
            (count, other.limit)
            for other, count in zip(group, counts, strict=True)
            if not other.gate & Gate.ASIDE and other.key.startswith(hit.bucket) and isinstance(count, int)
        ]
        if all([used < limit for used, limit in uses]) and any(
            [used + tokens >= limit for used, limit in uses]
        ):
            found[place] = refused_by(tokens, _DELAY)
    return found
