"""The slots and hash tags of keys, and batches split by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import count

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ...core.model import HitValues
from ..batch import Part, Place

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


def tag_of(key: str) -> str:
    """The part of a key that is hashed: the text between its first braces, or all of it."""
    begin = key.find("{") + 1
    end = key.find("}", begin) if begin else -1
    return key[begin:end] if end > begin else key


def by_slot(groups: Sequence[Sequence[HitValues]]) -> list[Part]:
    """Split groups into a part for each slot that they touch; `Part.where` is the slot."""
    return _split(groups, slot_of)


def by_tag(groups: Sequence[Sequence[HitValues]]) -> list[Part]:
    """Split groups into a part for each hash tag, and so for each bucket; `Part.where` is the tag."""
    return _split(groups, tag_of)


def _split(groups: Sequence[Sequence[HitValues]], place_of: Callable[[str], Place]) -> list[Part]:
    places: dict[Place, dict[int, list[int]]] = {}
    for number, group in enumerate(groups):
        for at, (key, _, _, _, _) in enumerate(group):
            places.setdefault(place_of(key), {}).setdefault(number, []).append(at)
    return [
        Part(
            [[groups[number][at] for at in members] for number, members in of_place.items()],
            list(of_place.items()),
            place,
        )
        for place, of_place in places.items()
    ]
