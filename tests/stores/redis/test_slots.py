"""Slots: the slot of a key, and batches that are split by slots and joined again."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.model import Hit
from ratelimit_service.stores.batch import Groups, Part, join
from ratelimit_service.stores.lanes import Place
from ratelimit_service.stores.redis import slots
from ratelimit_service.stores.redis.script import register
from ratelimit_service.stores.redis.slots import SLOTS, by_slot, by_tag, slot_of, tag_in, tag_of


def test_slots_of_keys_agree_with_redis() -> None:
    """CLUSTER KEYSLOT: the first non-empty braces count."""
    known = {"foo": 12182, "{foo}bar": 12182, "x{foo}{bar}": 12182, "{}foo": 9500, "123456789": 12739}
    assert known == {key: slot_of(key) for key in known}


def test_all_windows_of_a_bucket_are_in_one_slot() -> None:
    """The register is in the same slot, too, with any prefix."""
    key = "rl:{d|k=v}:hour:2026-11-21T08Z"
    slot = slot_of("{d|k=v}")
    assert {slot} == {
        slot_of(key),
        slot_of("rl:{d|k=v}:day:2026-11-21"),
        slot_of(register("rl:", "l-1", tag_in(slot))),
        slot_of(register("rl:", "l-1", tag_of(key))),
    }


def test_a_register_has_the_prefix_of_the_counters() -> None:
    """An ACL may allow no other keys. A lane has one register in all, or one in each slot."""
    assert ("rl:lane:l-1", "rl:lane:l-1{2f}") == (register("rl:", "l-1"), register("rl:", "l-1", "2f"))


def test_a_prefix_with_a_hash_tag_puts_all_keys_into_one_slot() -> None:
    """The tag of the prefix comes first, so it is the tag of every key."""
    keys = ["{rl}:{d|k=v}:hour:2026-11-21T08Z", "{rl}:{d|k=w}:day:2026-11-21"]
    keys += [register("{rl}:", "l-1", tag) for tag in ("", "2f", "rl")]
    assert {slot_of("rl")} == {slot_of(key) for key in keys}
    assert {"rl"} == {tag_of(key) for key in keys}


def test_only_slots_of_short_keys_are_cached() -> None:
    """A descriptor from a caller may make a key of 77 kB."""
    before = slots._remembered_slot.cache_info().currsize
    for number in range(20):
        key = f"{{d|k={number}" + "x" * 300 + "}"
        assert slot_of(key) == slots._slot(key)
    assert before == slots._remembered_slot.cache_info().currsize


@pytest.mark.parametrize(
    ("key", "tag"),
    [("foo", "foo"), ("x{foo}{bar}", "foo"), ("{}{foo}", "{}{foo}"), ("a{b", "a{b"), ("}{", "}{")],
)
def test_the_hash_tag_is_the_text_in_the_first_braces(key: str, tag: str) -> None:
    """It is the whole key if there are none."""
    assert (tag, slot_of(key)) == (tag_of(key), slot_of(f"{{{tag}}}") if tag == "foo" else slot_of(key))


def test_every_slot_has_a_tag() -> None:
    """It has five hexadecimal digits."""
    tags = [tag_in(slot) for slot in range(SLOTS)]
    assert list(range(SLOTS)) == [slot_of(f"lane:1{{{tag}}}") for tag in tags]
    assert all(re.fullmatch("[0-9a-f]{5}", tag) for tag in tags)


def test_a_tag_is_found_with_a_few_hundred_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first split batch waits only for the tags of its own slots, not for those of all 16,384."""
    looked_up = 0

    class Counted(dict[int, str]):
        def get(self, key: int, default: str | None = None) -> str | None:  # type: ignore[override]
            nonlocal looked_up
            looked_up += 1
            return super().get(key, default)

    ends = Counted(slots._ends())
    monkeypatch.setattr(slots, "_ends", lambda: ends)
    for slot in range(0, SLOTS, 100):
        looked_up = 0
        tag_in.__wrapped__(slot)
        assert looked_up <= 400


KEYS = st.integers(0, 9).map(lambda number: f"{{d|k={number}}}:hour:x")
GROUPS = st.lists(st.lists(KEYS.map(lambda key: Hit(key, 1, ttl=60)), max_size=5), max_size=5)


@given(GROUPS, st.sampled_from([(by_slot, slot_of), (by_tag, tag_of)]))
def test_a_split_batch_can_be_joined_again(
    groups: list[list[Hit]],
    by: tuple[Callable[[Groups], list[Part]], Callable[[str], Place]],
) -> None:
    """Every hit is in one part, in order, and its count returns to its place."""
    split, place_of = by
    parts = split(groups)
    assert len({part.place for part in parts}) == len(parts)
    assert all(part.place == place_of(hit.key) for part in parts for group in part.groups for hit in group)
    numbers = iter(range(100))
    number_of = {id(hit): next(numbers) for group in groups for hit in group}
    counts = [[[number_of[id(hit)] for hit in group] for group in part.groups] for part in parts]
    assert [[number_of[id(hit)] for hit in group] for group in groups] == join(groups, parts, counts)


def test_a_part_has_only_groups_of_its_slot() -> None:
    """This holds for any number of other requests in the batch."""
    groups = [[Hit(f"{{d|k={number}}}:hour:x", 1, ttl=60)] for number in range(100)]
    parts = {part.place: part for part in by_slot(groups)}
    slot = slot_of(groups[42][0].key)
    alone = [number for number, group in enumerate(groups) if slot_of(group[0].key) == slot]
    part = parts[slot]
    assert ([groups[number] for number in alone], alone, slot) == (part.groups, part.origins, part.place)
