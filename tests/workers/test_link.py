"""Messages between two processes: their order, requests, failures, and the end of the other side."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ratelimit_service.workers.link import Link, LinkError


class Other:
    """The other end, with the messages that it has received."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.ended = asyncio.Event()
        self.go_on = asyncio.Event()
        self.link = Link(
            {"note": self.notes.append, "twice": self.twice, "wait": self.go_on.wait}, self.ended.set
        )

    async def twice(self, number: int) -> int:
        if number < 0:
            raise ValueError("below 0")
        return 2 * number


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Other]]:
    ours, theirs = socket.socketpair()
    link, other = Link({}), Other()
    await other.link.open(theirs)
    await link.open(ours)
    try:
        yield link, other
    finally:
        await link.close()
        await other.link.close()


async def test_messages_arrive_in_their_order_and_before_a_later_question() -> None:
    """Messages of any size, such as the pieces of rules, arrive before a later request."""
    async with linked() as (link, other):
        sent = [b"x" * size for size in (0, 1, 70_000, 3)]
        for each in sent:
            link.tell("note", each)
        assert 42 == await link.ask("twice", 21)
        assert sent == other.notes


async def test_answers_find_their_questions() -> None:
    async with linked() as (link, other):
        slow = asyncio.create_task(link.ask("wait"))
        assert [2, 4, 6] == [await link.ask("twice", number) for number in (1, 2, 3)]
        assert not slow.done()
        other.go_on.set()
        assert await slow


async def test_a_failure_is_an_error_for_the_asker_alone() -> None:
    async with linked() as (link, _):
        with pytest.raises(LinkError, match="twice: ValueError: below 0"):
            await link.ask("twice", -1)
        assert 2 == await link.ask("twice", 1)


async def test_a_late_answer_is_an_error_and_affects_no_other() -> None:
    async with linked() as (link, other):
        with pytest.raises(LinkError, match=r"wait: no answer within 0\.01 s"):
            await link.ask("wait", patience=0.01)
        other.go_on.set()
        assert 2 == await link.ask("twice", 1)


async def test_the_end_of_the_other_process_ends_every_question() -> None:
    """The end is reported once."""
    async with linked() as (link, other):
        waiting = asyncio.create_task(link.ask("wait"))
        await link.ask("twice", 1)
        await other.link.close()
        with pytest.raises(LinkError):
            await waiting
        with pytest.raises(LinkError):
            await link.ask("twice", 1)
        link.tell("note", "lost")
    async with linked() as (link, other):
        await link.close()
        await asyncio.wait_for(other.ended.wait(), 10)
