"""The slots of a Redis Cluster: which one a key is in, and batches split by them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import count

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ...core.model import HitValues
from ..batch import Part

SLOTS = REDIS_CLUSTER_HASH_SLOTS


def slot_of(key: str) -> int:
    """The slot of a key: of what stands between its first braces, or of all of it."""
    return key_slot(key.encode())


@cache
def tags() -> tuple[str, ...]:
    """A short text in each slot, to stand between the braces of a key that must be there. Takes a fifth of a second."""
    found: dict[int, str] = {}
    for number in count():
        found.setdefault(key_slot(f"{number:x}".encode()), f"{number:x}")
        if len(found) == SLOTS:
            return tuple(found[slot] for slot in range(SLOTS))
    raise AssertionError("count() does not end")


def by_slot(groups: Sequence[Sequence[HitValues]]) -> list[Part]:
    """Split groups into a part for each slot that they touch; `Part.where` is the slot."""
    slots: dict[int, dict[int, list[int]]] = {}
    for number, group in enumerate(groups):
        for place, (key, _, _, _, _) in enumerate(group):
            slots.setdefault(slot_of(key), {}).setdefault(number, []).append(place)
    return [
        Part(
            [[groups[number][place] for place in places] for number, places in members.items()],
            list(members.items()),
            slot,
        )
        for slot, members in slots.items()
    ]
