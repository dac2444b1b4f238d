"""Waiting for something to become true, which is what these tests do in place of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds until a condition is given up; generous, because only a failing test ever waits for so long."""


def wait_for(what: str, probe: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """The first true value that `probe` returns; AssertionError where none came within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (seen := probe()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:.0f} s, last seen: {seen!r}"
        time.sleep(0.005)
    return seen
