"""Sorting in runs comes to what sorting does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core import ordering
from ratelimit_service.core.ordering import in_order


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 10))
def test_things_come_in_their_order(things: list[int], run: int) -> None:
    """Those that are equal in the order in which they came, however long a run is."""
    before = ordering._RUN
    ordering._RUN = run
    try:
        keyed = list(enumerate(things))
        assert sorted(keyed, key=lambda one: one[1]) == list(in_order(keyed, lambda one: one[1]))
    finally:
        ordering._RUN = before


def test_no_call_sorts_more_than_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the sorting that no other thread can interrupt."""
    lengths: list[int] = []

    def merged(*runs: list[int], key: Callable[[int], int]) -> Iterator[int]:
        lengths.extend(map(len, runs))
        return merge(*runs, key=key)

    monkeypatch.setattr(ordering, "merge", merged)
    assert list(range(9_999, -1, -1)) == list(in_order(range(10_000), lambda thing: -thing))
    assert [1_000] * 10 == lengths


def test_nothing_is_sorted_before_somebody_asks() -> None:
    """The event loop makes it, and another thread goes through it."""
    things = iter(range(3))
    ordered = in_order(things, lambda thing: -thing)
    assert 0 == next(things)
    assert [2, 1] == list(ordered)
