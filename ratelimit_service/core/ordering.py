"""Sorting in short steps: another thread can run between any two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

_RUN = 1_000
"""The items that one call sorts: 100,000 would block every other thread for tens of milliseconds."""


def in_order(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[T]:
    """Yield `sorted(items, key=key)` from sorted runs, which it merges step by step."""
    rest = iter(items)
    runs = []
    while run := list(islice(rest, _RUN)):
        run.sort(key=key)
        runs.append(run)
    yield from merge(*runs, key=key)
