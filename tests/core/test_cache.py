"""A cache of recently used values keeps those in use, and never takes more memory than its bound."""

from __future__ import annotations

from ratelimit_service.core.cache import BoundedCache


def sized(most: int) -> BoundedCache[object, int]:
    """Return a cache whose values are their weights."""
    return BoundedCache(most, lambda key, value: abs(value))


def test_a_stored_value_is_found_and_another_one_is_not() -> None:
    """Both lookups agree."""
    recent = sized(100)
    recent.put("a", 1)
    assert [1, None] == [recent.get("a"), recent.get("b")]
    assert [1, None] == [recent.newest("a"), recent.newest("b")]


def test_two_generations_are_in_use_and_the_third_is_released_soon() -> None:
    """The number of stored values does not matter."""
    recent = sized(100)
    heaviest = found = 0
    for number in range(1_000):
        recent.put(number, 10)
        heaviest = max(heaviest, sum(recent.values()))
        found = max(found, sum(recent._now.values()) + sum(recent._before.values()))
    assert 200 == found
    assert heaviest <= 300
    for number in range(5):
        recent.put(f"later {number}", 10)
    assert sum(recent.values()) <= 200


def test_a_flood_evicts_only_unused_values() -> None:
    """Callers may invent any number of keys."""
    recent = sized(100)
    recent.put("used", 1)
    recent.put("idle", 2)
    for number in range(1_000):
        recent.put(number, 5)
        assert 1 == recent.get("used")
    assert None is recent.get("idle")


def test_heavy_values_cost_their_weight_when_they_are_kept_in_use() -> None:
    """A value from the older generation is weighed again. Otherwise a few heavy values would add up."""
    recent = sized(100)
    for number in range(1_000):
        recent.put(number, 12)
        for used in range(number):
            recent.get(used)
    assert sum(recent._now.values()) <= 100


def test_a_value_heavier_than_an_eighth_of_the_bound_is_not_stored() -> None:
    """One caller's value does not evict all others."""
    recent = sized(80)
    recent.put("a", 10)
    recent.put("b", 11)
    assert [10, None] == [recent.get("a"), recent.get("b")]


def test_a_value_that_is_replaced_weighs_once() -> None:
    """The status of a limit is replaced each second, which evicts nothing."""
    recent = sized(100)
    recent.put("other", 10)
    for _ in range(1_000):
        recent.put("a", 10)
    assert 10 == recent.newest("other")
    assert 2 == len(recent)


def test_the_last_value_of_a_key_counts() -> None:
    """The previous one may be in either generation."""
    recent = sized(80)
    recent.put("a", 10)
    for number in range(8):
        recent.put(number, 10)
    recent.put("a", -10)
    assert -10 == recent.get("a")


def test_every_value_is_listed_once() -> None:
    """Evicted values are listed, too: a reload releases them in steps."""
    recent = sized(24)
    for number in range(1, 13):
        recent.put(number, 3)
    assert len(recent) == len(list(recent.values()))
    assert [*range(len(recent))] == [*range(len(recent._now) + len(recent._before) + len(recent._evicted))]
