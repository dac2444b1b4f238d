"""Waiting for a condition, which tests do instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds to wait for a condition; only a failing test waits that long."""


def wait_for(what: str, probe: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """Return the first true value of `probe`. Raises AssertionError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (seen := probe()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:.0f} s, last seen: {seen!r}"
        time.sleep(0.005)
    return seen


async def until(condition: Callable[[], T]) -> T:
    """Run the event loop until the condition is true, and return its value. Raises TimeoutError after
    `PATIENCE` seconds. A condition that blocks belongs into a thread, with `wait_for`.
    """
    async with asyncio.timeout(PATIENCE):
        while not (seen := condition()):
            await asyncio.sleep(0.001)
    return seen
