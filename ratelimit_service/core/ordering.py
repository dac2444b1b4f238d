"""Sorting what may be long, without a call that takes long: another thread has its turn between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

_RUN = 1_000
"""Things that are sorted in one call: 100,000 would hold up every other thread for tens of milliseconds."""


def in_order(things: Iterable[T], key: Callable[[T], Any]) -> Iterator[T]:
    """`sorted(things, key=key)`, in runs that are merged as they are asked for. Nothing is done before the first is."""
    rest = iter(things)
    runs = []
    while run := list(islice(rest, _RUN)):
        run.sort(key=key)
        runs.append(run)
    yield from merge(*runs, key=key)
