"""Commands that are sent together: one write, and a reply for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ratelimit_service.stores.batch import result_of
from ratelimit_service.stores.redis.errors import NotSent
from ratelimit_service.stores.redis.wire import Command, OnReplies, Wire
from testing.redis_clients import connect


@pytest.mark.parametrize("together, expected", [(False, [1, 2]), (True, [3])])
async def test_commands_are_written_together(
    redis_url: str, together: bool, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one does not wait for others of its turn of the loop, unless they are sent with it."""
    wire = Wire(connect(redis_url))
    await wire.ask("PING")
    assert wire._connection is not None
    transport = wire._connection._transport
    written: list[int] = []

    class Counting:
        def write(self, data: bytes) -> None:
            written.append(data.count(b"ECHO"))
            transport.write(data)

    monkeypatch.setattr(wire._connection, "_transport", Counting())
    commands: list[Command] = [("ECHO", str(number)) for number in range(3)]
    if together:
        replies = await each_reply(wire, commands)
    else:
        replies = await asyncio.gather(*[wire.ask(*command) for command in commands])
    monkeypatch.undo()
    assert [b"0", b"1", b"2"] == replies
    assert expected == written
    await wire.close()


async def test_commands_that_are_sent_together_have_their_own_replies(redis_url: str) -> None:
    """An error is the reply of its command, and a command that cannot be packed fails alone.

    A new connection makes no difference, nor do other commands in flight.
    """
    wire = Wire(connect(redis_url))
    wrong: Any = ("ECHO", object())
    for _ in range(2):
        alone = asyncio.ensure_future(wire.ask("ECHO", "alone"))
        await asyncio.sleep(0)
        first, error, unpacked, last = await each_reply(
            wire, [("ECHO", "a"), ("NOSUCH",), wrong, ("ECHO", "b")]
        )
        assert (b"alone", b"a", b"b") == (await alone, first, last)
        assert isinstance(error, ResponseError) and isinstance(unpacked, Exception)
        assert [b"a", b"b"] == await each_reply(wire, [("ECHO", "a"), ("ECHO", "b")])
    await wire.close()


async def test_a_lost_connection_fails_all_commands_that_were_sent_together(redis_url: str) -> None:
    """Those whose replies are there keep them. Without a connection, all fail as not sent."""
    wire = Wire(connect(redis_url))
    await wire.ask("PING")
    sent = asyncio.ensure_future(each_reply(wire, [("ECHO", "a"), ("QUIT",), ("ECHO", "b")]))
    first, _, lost = await sent
    assert b"a" == first
    assert isinstance(lost, RedisConnectionError)
    await wire.close()
    away = Wire(connect("redis://127.0.0.1:1"))
    assert [NotSent, NotSent] == [type(reply) for reply in await each_reply(away, [("PING",), ("PING",)])]
    await away.close()


async def each_reply(wire: Wire, commands: Sequence[Command]) -> list[Any]:
    def begin(on_replies: OnReplies) -> None:
        wire.call_each(commands, on_replies)

    return await asyncio.wait_for(result_of(begin), 10)
