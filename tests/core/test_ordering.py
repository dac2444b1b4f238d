"""Sorting in runs has the result of sorting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core import ordering
from ratelimit_service.core.ordering import in_order


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 10))
def test_items_are_sorted(things: list[int], run: int) -> None:
    """Equal items keep their order, whatever the length of a run."""
    before = ordering._RUN
    ordering._RUN = run
    try:
        keyed = list(enumerate(things))
        assert sorted(keyed, key=lambda one: one[1]) == list(in_order(keyed, lambda one: one[1]))
    finally:
        ordering._RUN = before


def test_no_call_sorts_more_than_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads cannot run during a sort."""
    lengths: list[int] = []

    def merged(*runs: list[int], key: Callable[[int], int]) -> Iterator[int]:
        lengths.extend(map(len, runs))
        return merge(*runs, key=key)

    monkeypatch.setattr(ordering, "merge", merged)
    assert list(range(9_999, -1, -1)) == list(in_order(range(10_000), lambda thing: -thing))
    assert [1_000] * 10 == lengths


def test_nothing_is_sorted_before_the_first_item_is_taken() -> None:
    """The event loop makes the iterator, and another thread uses it."""
    things = iter(range(3))
    ordered = in_order(things, lambda thing: -thing)
    assert 0 == next(things)
    assert [2, 1] == list(ordered)
