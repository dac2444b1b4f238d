"""The slots and hash tags of keys, and batches split by them."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import product

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from ...core.model import Hit
from ..batch import Groups, Origin, Part
from ..lanes import Place

SLOTS = REDIS_CLUSTER_HASH_SLOTS

_DIGITS = "0123456789abcdef"


def _checksum(text: str) -> int:
    """Return the CRC16 of Redis Cluster; its 14 lowest bits are the slot."""
    return crc_hqx(text.encode(), 0)


_BEGINNINGS = [(text, _checksum(text + "\0\0\0")) for text in map("".join, product(_DIGITS, repeat=2))]


@cache
def _ends() -> dict[int, str]:
    return {_checksum(text): text for text in map("".join, product(_DIGITS, repeat=3))}


_LONGEST_REMEMBERED = 256
"""Characters of a key whose slot is remembered. Strangers can make keys of tens of kilobytes."""


def slot_of(key: str) -> int:
    """Return the slot of a key: that of the text between its first braces, or else of the whole key."""
    return _remembered_slot(key) if len(key) <= _LONGEST_REMEMBERED else _slot(key)


def _slot(key: str) -> int:
    return crc_hqx(tag_of(key).encode(), 0) & (SLOTS - 1)


_remembered_slot = lru_cache(maxsize=8_192)(_slot)


@cache
def tag_in(slot: int) -> str:
    """Return a hash tag in a slot, five hexadecimal digits, for a key that must be in that slot.

    Finding one for each slot by trial takes tenths of a second. But the checksum of a text is the checksum of
    its beginning followed by zeros, XOR the checksum of its end. So one lookup for each beginning finds a
    matching end.
    """
    ends = _ends()
    for beginning, checksum in _BEGINNINGS:
        for rest in range(0, 1 << 16, SLOTS):
            end = ends.get(checksum ^ (slot | rest))
            if end is not None:
                return beginning + end
    raise AssertionError(f"no tag is in slot {slot}")


def tag_of(key: str) -> str:
    """Return the hash tag of a key: the text between its first braces, or else the whole key."""
    begin = key.find("{") + 1
    end = key.find("}", begin) if begin else -1
    return key[begin:end] if end > begin else key


def by_slot(groups: Groups) -> list[Part]:
    """Split groups into a part for each slot of their keys; `Part.place` is the slot."""
    return _split(groups, slot_of)


def by_tag(groups: Groups) -> list[Part]:
    """Split groups into a part for each hash tag, and so for each bucket; `Part.place` is the tag."""
    return _split(groups, tag_of)


def _split(groups: Groups, place_of: Callable[[str], Place]) -> list[Part]:
    parts: dict[Place, Part] = {}
    for number, group in enumerate(groups):
        if len(group) == 1:
            place = place_of(group[0].key)
            part = parts.get(place)
            if part is None:
                parts[place] = Part([group], [number], place)
            else:
                part.groups.append(group)
                part.origins.append(number)
            continue
        indexes: dict[Place, list[int]] = {}
        for index, hit in enumerate(group):
            indexes.setdefault(place_of(hit.key), []).append(index)
        for place, hits in indexes.items():
            if len(indexes) == 1:
                _add(parts, place, group, number)
            else:
                _add(parts, place, [group[index] for index in hits], Origin(number, hits))
    return list(parts.values())


def _add(parts: dict[Place, Part], place: Place, group: Sequence[Hit], origin: int | Origin) -> None:
    part = parts.get(place)
    if part is None:
        part = parts[place] = Part([], [], place)
    part.groups.append(group)
    part.origins.append(origin)
