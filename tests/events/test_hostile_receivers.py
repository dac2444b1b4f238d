"""What a hostile receiver costs the event loop, on which calls are answered."""

from __future__ import annotations

import asyncio
import gc
import heapq
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import h11
import pytest

from ratelimit_service.events.posting import LONGEST_HEAD
from ratelimit_service.events.receivers import Receiver
from ratelimit_service.stores.events import MemoryEvents
from testing.waiting import until

from . import hostile
from .hostile import Answer
from .test_delivery import NOW, Clock, delivering, emit, event

ATTEMPTS = 6
ALLOWED = 4
"""Times the CPU time that the longest allowed head takes to parse."""


def cost_of_the_longest_head() -> float:
    """Return the seconds of CPU time that h11 takes to parse as many headers as fit into the bound."""
    head = hostile.STATUS + b"a:\r\n" * (LONGEST_HEAD // 4) + b"\r\n"

    def parse() -> float:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        connection.send(h11.EndOfMessage())
        began = time.thread_time()
        connection.receive_data(head)
        assert isinstance(connection.next_event(), h11.Response)
        return time.thread_time() - began

    return min([parse() for _ in range(5)])


@asynccontextmanager
async def measured_turns() -> AsyncIterator[list[float]]:
    """Measure the CPU time of each turn of the event loop; other threads, and garbage, are not counted."""
    turns: list[float] = []

    async def measure() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            turns.append(now - before)
            before = time.thread_time()

    gc.disable()
    task = asyncio.create_task(measure())
    try:
        yield turns
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        gc.enable()


@pytest.mark.parametrize(
    "answer",
    [hostile.ENDLESS_BODY, hostile.ENDLESS_HEADERS, hostile.ENDLESS_INTERIM, hostile.MANY_HEADERS],
    ids=["endless body", "endless headers", "endless interim responses", "many headers"],
)
async def test_an_answer_without_end_takes_short_turns(answer: Answer) -> None:
    """Calls are answered between two turns. The longest two of all attempts may be long for other reasons."""
    store, clock = MemoryEvents(lambda: NOW), Clock()
    allowed = ALLOWED * cost_of_the_longest_head()
    with hostile.hostile(answer) as server:
        async with delivering(Receiver("ops", server.url()), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.failures or made.delivered)
            await emit(store, *[event(number) for number in range(2, 2 + ATTEMPTS)])
            async with measured_turns() as turns:
                await until(lambda: made.failures + made.delivered > ATTEMPTS)
    assert heapq.nlargest(3, turns)[-1] < allowed


@pytest.mark.parametrize("answer", [hostile.ENDLESS_HEADERS, hostile.ENDLESS_INTERIM, hostile.MANY_HEADERS])
async def test_a_head_without_end_is_a_failure(answer: Answer) -> None:
    """The delivery is tried again, as after any other failure."""
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with hostile.hostile(answer) as server:
        async with delivering(Receiver("ops", server.url()), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.failures >= 2)
            assert (0, 0) == (made.delivered, made.dropped)


async def test_the_head_of_a_usual_answer_is_accepted() -> None:
    """One with a policy of some kilobytes, after an informational response."""
    store, clock = MemoryEvents(lambda: NOW), Clock()
    head = hostile.STATUS + b"content-security-policy: " + b"x" * 6_000 + b"\r\n\r\n"
    with hostile.hostile(Answer(hostile.INTERIM + head)) as server:
        async with delivering(Receiver("ops", server.url()), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.delivered)
            assert 0 == made.failures
