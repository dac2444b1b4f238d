"""Script calls to one server: all that come in one turn of the loop travel in one write."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import redis.asyncio as aioredis
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .redis_client import close
from .script import SCRIPT, SHA, Arguments

Reply = list[int | bytes]


class _Call(NamedTuple):
    command: tuple[object, ...]
    asking: bool
    reply: asyncio.Future[Reply]


_FOR_EACH = 0.002
"""Seconds more for each call in a write: some forty times of what it takes."""


class Pipe:
    """Calls through one client. Whatever goes wrong with a connection, calls are not sent a second time.

    Who has no reply within `patience` seconds (where it is given) is told so, while the connection goes on waiting: the
    call may still be carried out.
    """

    def __init__(self, client: aioredis.Redis, patience: float | None = None) -> None:
        self.client = client
        self._patience = patience
        self._calls: list[_Call] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def evaluate(self, arguments: Arguments, *, asking: bool = False) -> Reply:
        """Run the script; with `asking`, on a server that is just being given the slot. Raises what redis-py does."""
        keys, rest = arguments
        try:
            return await self._call(("EVALSHA", SHA, len(keys), *keys, *rest), asking)
        except NoScriptError:  # not carried out: a Redis that is new, or was told SCRIPT FLUSH
            return await self._call(("EVAL", SCRIPT, len(keys), *keys, *rest), asking)

    async def close(self) -> None:
        """Wait for the calls under way, then close the connections."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        await close(self.client)

    async def _call(self, command: tuple[object, ...], asking: bool) -> Reply:
        loop = asyncio.get_running_loop()
        call = _Call(command, asking, loop.create_future())
        self._calls.append(call)
        if len(self._calls) == 1:
            loop.call_soon(self._flush)
        return await call.reply

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        task = asyncio.get_running_loop().create_task(self._send(calls))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        if self._patience is not None:
            patience = self._patience + _FOR_EACH * len(calls)
            timer = asyncio.get_running_loop().call_later(patience, _give_up, calls, patience)
            task.add_done_callback(lambda task: timer.cancel())

    async def _send(self, calls: list[_Call]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for call in calls:
            if call.asking:
                pipeline.execute_command("ASKING")
            pipeline.execute_command(*call.command)
        try:
            replies = iter(await pipeline.execute(raise_on_error=False))
        except Exception as error:
            for call in calls:
                if not call.reply.done():
                    call.reply.set_exception(error)
            return
        except BaseException:
            for call in calls:
                call.reply.cancel()
            raise
        for call in calls:
            asked = next(replies) if call.asking else None
            reply = next(replies)
            wrong = asked if isinstance(asked, Exception) else reply
            if call.reply.done():
                continue
            if isinstance(wrong, Exception):
                call.reply.set_exception(wrong)
            else:
                call.reply.set_result(reply)


def _give_up(calls: list[_Call], patience: float) -> None:
    for call in calls:
        if not call.reply.done():
            call.reply.set_exception(RedisTimeoutError(f"no answer within {patience * 1000:.0f} ms"))
