"""Slots: which one a key is in, and batches that are split by them and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.model import Hit, HitValues
from ratelimit_service.stores.batch import Part, Place, joined
from ratelimit_service.stores.redis.script import register
from ratelimit_service.stores.redis.slots import SLOTS, by_slot, by_tag, slot_of, tag_of, tags


def test_keys_are_in_the_slots_that_redis_says() -> None:
    """As CLUSTER KEYSLOT has them: the first braces that have something between them count."""
    known = {"foo": 12182, "{foo}bar": 12182, "x{foo}{bar}": 12182, "{}foo": 9500, "123456789": 12739}
    assert known == {key: slot_of(key) for key in known}


def test_all_windows_of_a_bucket_are_in_one_slot() -> None:
    """And its register, too, whatever the prefix is."""
    key = "rl:{d|k=v}:hour:2026-11-21T08Z"
    slot = slot_of("{d|k=v}")
    assert {slot} == {
        slot_of(key),
        slot_of("rl:{d|k=v}:day:2026-11-21"),
        slot_of(register("rl:", "l-1", tags()[slot])),
        slot_of(register("rl:", "l-1", tag_of(key))),
    }


def test_a_register_has_the_prefix_of_the_counters() -> None:
    """A user of Redis may be allowed no other keys; the lane has one register in all, or one in each slot."""
    assert ("rl:lane:l-1", "rl:lane:l-1{2f}") == (register("rl:", "l-1"), register("rl:", "l-1", "2f"))


def test_a_prefix_with_a_hash_tag_has_everything_in_its_slot() -> None:
    """The tag of the prefix comes first, and is that of every key."""
    keys = ["{rl}:{d|k=v}:hour:2026-11-21T08Z", "{rl}:{d|k=w}:day:2026-11-21"]
    keys += [register("{rl}:", "l-1", tag) for tag in ("", "2f", "rl")]
    assert {slot_of("rl")} == {slot_of(key) for key in keys}
    assert {"rl"} == {tag_of(key) for key in keys}


@pytest.mark.parametrize(
    ("key", "tag"),
    [("foo", "foo"), ("x{foo}{bar}", "foo"), ("{}{foo}", "{}{foo}"), ("a{b", "a{b"), ("}{", "}{")],
)
def test_a_hash_tag_is_what_redis_says(key: str, tag: str) -> None:
    """The text between the first braces, or all of the key where there is none."""
    assert (tag, slot_of(key)) == (tag_of(key), slot_of(f"{{{tag}}}") if tag == "foo" else slot_of(key))


def test_there_is_a_tag_in_every_slot() -> None:
    """Each is in the slot whose number it has in the list."""
    assert list(range(SLOTS)) == [slot_of(f"lane:1{{{tag}}}") for tag in tags()]


KEYS = st.integers(0, 9).map(lambda number: f"{{d|k={number}}}:hour:x")
GROUPS = st.lists(st.lists(KEYS.map(lambda key: Hit(key, 1, 60)), max_size=5), max_size=5)


@given(GROUPS, st.sampled_from([(by_slot, slot_of), (by_tag, tag_of)]))
def test_what_is_split_can_be_put_together_again(
    groups: list[list[Hit]],
    by: tuple[Callable[[Sequence[Sequence[HitValues]]], list[Part]], Callable[[str], Place]],
) -> None:
    """Every hit is in one part, in its order, and its count comes back in its place."""
    split, place_of = by
    parts = split(groups)
    assert len({part.where for part in parts}) == len(parts)
    assert all(place_of(key) == part.where for part in parts for group in part.groups for key, *_ in group)
    numbers = iter(range(100))
    number_of = {id(hit): next(numbers) for group in groups for hit in group}
    counts = [[[number_of[id(hit)] for hit in group] for group in part.groups] for part in parts]
    assert [[number_of[id(hit)] for hit in group] for group in groups] == joined(groups, parts, counts)


def test_a_part_has_only_groups_that_are_in_its_slot() -> None:
    """However many other requests there are in the batch."""
    groups = [[Hit(f"{{d|k={number}}}:hour:x", 1, 60)] for number in range(100)]
    parts = {part.where: part for part in by_slot(groups)}
    slot = slot_of(groups[42][0].key)
    alone = [number for number, group in enumerate(groups) if slot_of(group[0].key) == slot]
    assert (
        Part([groups[number] for number in alone], [(number, [0]) for number in alone], slot) == parts[slot]
    )
