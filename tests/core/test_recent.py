"""What was used of late is remembered, and no more than so much of it."""

from __future__ import annotations

from ratelimit_service.core.recent import Recent


def test_what_was_put_is_there() -> None:
    """And what was not is None."""
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    assert [1, None] == [recent.get("a"), recent.get("b")]


def test_the_bound_is_twice_what_is_asked_for() -> None:
    """However many are put in."""
    recent: Recent[int, int] = Recent(10)
    sizes = set()
    for number in range(1_000):
        recent.put(number, number)
        sizes.add(len(recent))
    assert 20 == max(sizes)


def test_a_flood_drives_out_what_is_not_used_and_nothing_that_is() -> None:
    """Strangers may make up as many keys as they like."""
    recent: Recent[int, int] = Recent(10)
    recent.put(-1, 1)
    recent.put(-2, 2)
    for number in range(1_000):
        recent.put(number, number)
        assert 1 == recent.get(-1)
    assert None is recent.get(-2)


def test_the_last_value_counts() -> None:
    """A key that is put again has its new value, wherever the old one was."""
    recent: Recent[str, int] = Recent(1)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.put("a", 3)
    assert 3 == recent.get("a")


def test_all_that_is_remembered_is_listed_once() -> None:
    """However long ago it was put."""
    recent: Recent[int, int] = Recent(3)
    for number in (*range(5), 4):
        recent.put(number, number)
    assert [0, 1, 2, 3, 4] == sorted(recent.values())
