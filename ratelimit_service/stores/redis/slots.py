"""The slots and hash tags of keys, and batches split by them."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ...core.model import Hit
from ..batch import Part, Place

SLOTS = REDIS_CLUSTER_HASH_SLOTS

_DIGITS = "0123456789abcdef"


def _checksum(text: str) -> int:
    """CRC16 as Redis Cluster has it; the slot is its 14 lowest bits."""
    return crc_hqx(text.encode(), 0)


_BEGINNINGS = [(text, _checksum(text + "\0\0\0")) for text in map("".join, product(_DIGITS, repeat=2))]


@cache
def _ends() -> dict[int, str]:
    return {_checksum(text): text for text in map("".join, product(_DIGITS, repeat=3))}


def slot_of(key: str) -> int:
    """The slot of a key: of what stands between its first braces, or of all of it."""
    return key_slot(key.encode())


@cache
def tag_in(slot: int) -> str:
    """A hash tag in a slot, for a key that must be there: five hexadecimal digits.

    Trying texts until there is one for each slot takes tenths of a second. But the checksum of a text is the exclusive or of
    that of its beginning, with zeros behind it, and that of its end: so an end is looked up for each beginning.
    """
    ends = _ends()
    for beginning, checksum in _BEGINNINGS:
        for rest in range(0, 1 << 16, SLOTS):
            end = ends.get(checksum ^ (slot | rest))
            if end is not None:
                return beginning + end
    raise AssertionError(f"no tag is in slot {slot}")


def tag_of(key: str) -> str:
    """The part of a key that is hashed: the text between its first braces, or all of it."""
    begin = key.find("{") + 1
    end = key.find("}", begin) if begin else -1
    return key[begin:end] if end > begin else key


def by_slot(groups: Sequence[Sequence[Hit]]) -> list[Part]:
    """Split groups into a part for each slot that they touch; `Part.where` is the slot."""
    return _split(groups, slot_of)


def by_tag(groups: Sequence[Sequence[Hit]]) -> list[Part]:
    """Split groups into a part for each hash tag, and so for each bucket; `Part.where` is the tag."""
    return _split(groups, tag_of)


def _split(groups: Sequence[Sequence[Hit]], place_of: Callable[[str], Place]) -> list[Part]:
    places: dict[Place, dict[int, list[int]]] = {}
    for number, group in enumerate(groups):
        for at, hit in enumerate(group):
            places.setdefault(place_of(hit.key), {}).setdefault(number, []).append(at)
    return [
        Part(
            [[groups[number][at] for at in members] for number, members in of_place.items()],
            list(of_place.items()),
            place,
        )
        for place, of_place in places.items()
    ]
