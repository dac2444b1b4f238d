"""A connection to Redis that is driven directly: a command and a callback in, its reply out.

The way of script calls. redis-py's own costs a coroutine, a timer and a few tasks for each command, several times of what
is left of it here: hiredis packs a command and reads the reply, and this module keeps who waits for which. What happens once
for each connection is left to redis-py: sockets, TLS, logging in, the database, and asking sentinels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..batch import told
from .client import Address, Opened, close, open_connection, patience_of
from .errors import NotSent, bare

Argument = str | int | bytes
Answered = Callable[[Any], None]
"""Told the reply, or the exception in its place: an error reply, or why there is none."""

_NOT_YET: Any = object()

_TRUSTED = 3.0
"""Seconds for which a connection may be silent. After that, the next command goes by a new one: the network may have forgotten
it, and it would take `patience` to find out. The health check asks once a second, so only a process that stood still waits
for a new connection."""

_MEANWHILE = 0.001
"""Seconds for what has arrived while this process itself was held up."""


def ignore(reply: Any) -> None:
    """For a reply that nobody needs."""


async def asked(begin: Callable[[Answered], None]) -> Any:
    """The reply that the callback is told which `begin` is given. Raises what stands in its place."""
    reply: Any = await told(begin)
    if isinstance(reply, Exception):
        raise reply
    return reply


class Wire:
    """Commands to the server of `client`, by one connection of their own, which is made when it is needed.

    Replies come in the order of the commands. Where nothing is heard of the server for `patience` seconds (those of the
    client, if they are not given), or the connection breaks, all that wait are told so: their commands may or may not have
    been carried out. Where there is no connection, the error is NotSent. Nothing is sent twice. The next command makes a new
    connection.
    """

    def __init__(self, client: aioredis.Redis, patience: float | None = None) -> None:
        self.client = client
        self._patience = patience_of(client) if patience is None else patience
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[tuple[tuple[Argument, ...], Answered]] = []
        self._timer: asyncio.TimerHandle | None = None

    def call(self, command: tuple[Argument, ...], then: Answered) -> None:
        """Send a command; `then` is called once, on the loop, later or at once. Never raises."""
        if self._connection is not None and self._connection.stale:
            self.drop("it was silent for too long")
        if self._connection is not None:
            self._connection.send(command, then)
            return
        loop = asyncio.get_running_loop()
        self._waiting.append((command, then))
        if self._timer is None:
            self._timer = loop.call_later(self._patience, self._give_up)
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())

    async def ask(self, *command: Argument) -> Any:
        """Send a command, and wait for the reply. Raises what stands in its place."""
        return await asked(lambda then: self.call(command, then))

    def drop(self, why: str, unless_at: Address | None = None) -> None:
        """Close the connection, unless it leads to that address. Who waits for a reply is told why."""
        connection = self._connection
        if connection is not None and (unless_at is None or connection.address != unless_at):
            connection.fail(RedisConnectionError(why))

    async def close(self) -> None:
        """Wait for the replies that are still to come, then close all connections of the client."""
        while self._connecting is not None or (self._connection is not None and self._connection.busy):
            if self._connecting is not None:
                await asyncio.wait([self._connecting])
            if self._connection is not None:
                await self._connection.drained()
        self.drop("closed")
        await close(self.client)

    async def _connect(self) -> None:
        wrong: Exception = RedisConnectionError("the connection broke at once")
        try:
            opened = await open_connection(self.client)
            self._connection = _Connection(opened, self._patience, self._forget)
        except Exception as error:
            wrong = bare(error)
        finally:
            self._connecting = None
        for command, then in self._waited():
            if self._connection is not None:
                self._connection.send(command, then)
            else:
                _tell(then, NotSent(wrong))

    def _give_up(self) -> None:
        """Hold nobody up for longer; a connection may still come of it, for those who come later."""
        for _, then in self._waited():
            wrong = RedisTimeoutError(f"no connection within {self._patience * 1000:.0f} ms")
            _tell(then, NotSent(wrong))

    def _waited(self) -> list[tuple[tuple[Argument, ...], Answered]]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        return waiting

    def _forget(self) -> None:
        self._connection = None


class _Connection(asyncio.Protocol):
    """One connection, taken over as it was `opened`; `lost` is called when it is of no use any more, before those who wait."""

    def __init__(self, opened: Opened, patience: float, lost: Callable[[], None]) -> None:
        self.address = opened.address
        self._loop = asyncio.get_running_loop()
        self._stream = opened.stream  # asyncio closes what nobody holds
        self._transport = opened.stream.transport
        self._lost = lost
        self._patience = patience
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOT_YET
        )
        self._pending: deque[Answered] = deque()
        self._unsent: list[bytes] = []
        """Commands of this turn of the loop."""
        self._heard = self._loop.time()
        """When something came last, or was sent after all replies were there."""
        self._late = -1.0
        """The same, when nothing had come in time."""
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._failed = False
        self._transport.set_protocol(self)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a reply."""
        return bool(self._pending)

    @property
    def stale(self) -> bool:
        """Whether nobody waits for a reply, and nothing was sent or heard for so long that the network may have lost it."""
        return not self._pending and self._loop.time() > self._heard + _TRUSTED

    def send(self, command: tuple[Argument, ...], then: Answered) -> None:
        """Send a command: at once where nobody waits for a reply, else in one write with all others of this turn of the loop."""
        try:
            data: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
        except Exception as error:
            _tell(then, bare(error))
            return
        if not self._pending:
            self._heard = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._patience, self._look)
            self._transport.write(data)
        else:
            if not self._unsent:
                self._loop.call_soon(self._send_rest)
            self._unsent.append(data)
        self._pending.append(then)

    def _send_rest(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self._failed:
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        """Hand replies to who waits for them."""
        self._heard = self._loop.time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOT_YET:
                if not self._pending:
                    raise InvalidResponse("a reply that nobody waits for")
                _tell(self._pending.popleft(), reply)
        except (
            Exception
        ) as error:  # redis-py's reader of errors raises anything, for a MOVED without an address
            self.fail(error)
        if self._drained is not None and not self._pending:
            self._drained.set_result(None)
            self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has closed it, or the network has."""
        self.fail(RedisConnectionError(str(exc) if exc else "Connection closed by server."))

    def fail(self, error: Exception) -> None:
        """Close it at once, and tell everybody who waits why."""
        if self._failed:
            return
        self._failed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._lost()
        while self._pending:
            _tell(self._pending.popleft(), error)
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    async def drained(self) -> None:
        """Wait until nobody waits for a reply."""
        if self._pending:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _look(self) -> None:
        """See whether replies still come, and come back when the next one is due."""
        self._timer = None
        if not self._pending:
            return
        due = self._heard + self._patience
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
        elif self._late != self._heard:
            # Once more, after what is here has been read: it may be this process that stood still.
            self._late = self._heard
            self._timer = self._loop.call_later(_MEANWHILE, self._look)
        else:
            self.fail(RedisTimeoutError(f"no answer within {self._patience * 1000:.0f} ms"))


def _tell(then: Answered, reply: Any) -> None:
    """A callback that fails must not take the replies of others with it."""
    try:
        then(reply)
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an answer of Redis could not be dealt with", "exception": error}
        )
