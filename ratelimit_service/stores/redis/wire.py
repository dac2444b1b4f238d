"""A connection to Redis without the overhead of redis-py: a callback for the reply to each command.

Script calls use it. redis-py takes a coroutine, a timer and a few tasks for each command, which costs several
times as much. Here hiredis packs commands and parses replies, and this module matches replies to callbacks.
redis-py opens connections: sockets, TLS, logging in, selecting the database, and querying sentinels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...runtime.exceptions import report
from ..batch import callbacks_for, result_of
from .client import Address, OpenConnection, close, open_connection, patience_of
from .errors import NotSent, bare

Argument = str | int | bytes
Command = tuple[Argument, ...]
OnReply = Callable[[Any], object]
"""Called with the reply, or with an exception: an error reply, or the reason why there is no reply."""

OnReplies = Callable[[list[Any]], None]
"""Called with a reply or an exception for each of several commands, in their order."""

_NOT_YET: Any = object()

_ORDINARY = 256
_SIZES = [f"${size}\r\n" for size in range(_ORDINARY)]
"""The beginnings of arguments, by their size."""

_TRUSTED = 3.0
"""Seconds for which a connection may be silent. After that, the next command uses a new one: the network may
have dropped the old one, and detecting that would take `patience` seconds. The health check runs once a
second, so this only happens after this process itself was stopped."""

_MEANWHILE = 0.001
"""Seconds for reading what arrived while this process itself was stopped."""


def pack(command: Command) -> bytes:
    """Return a command as it is sent.

    hiredis does the same, but takes three times as long where this module is compiled.
    """
    parts = [f"*{len(command)}\r\n"]
    for argument in command:
        if isinstance(argument, str):
            text = argument
        elif isinstance(argument, int):
            text = str(argument)
        else:
            return _pack_any(command)
        size = len(text)
        parts.append(_SIZES[size] if size < _ORDINARY else f"${size}\r\n")
        parts.append(text)
        parts.append("\r\n")
    packed = "".join(parts)
    return packed.encode("ascii") if packed.isascii() else _pack_any(command)


def _pack_any(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def ignore(reply: Any) -> None:
    """Discard a reply."""


async def reply_to(begin: Callable[[OnReply], None]) -> Any:
    """Pass a callback to `begin`, and return its reply.

    Raises the reply if it is an exception.
    """
    reply: Any = await result_of(begin)
    if isinstance(reply, Exception):
        raise reply
    return reply


class Wire:
    """Sends commands to the server of `client`, over one connection, which is made when it is needed.

    Replies come in the order of the commands. If the server is silent for `patience` seconds (by default
    those of the client), or the connection breaks, every waiting callback gets the error: its command may or
    may not have been executed. If there is no connection, the error is NotSent. Nothing is sent twice. The
    next command opens a new connection.
    """

    def __init__(self, client: aioredis.Redis, patience: float | None = None) -> None:
        self.client = client
        self._patience = patience_of(client) if patience is None else patience
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Command, OnReply]] = []
        """Commands that wait for a connection."""
        self._timer: asyncio.TimerHandle | None = None

    def call(self, command: Command, on_reply: OnReply) -> None:
        """Send a command; `on_reply` is called once, on the loop, at once or later. Never raises."""
        if self._connection is not None:
            if self._connection.send(command, on_reply):
                return
            self.drop("it was silent for too long")
        loop = asyncio.get_running_loop()
        self._waiting.append((command, on_reply))
        if self._timer is None:
            self._timer = loop.call_later(self._patience, self._give_up)
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())

    def call_each(self, commands: Sequence[Command], on_replies: OnReplies) -> None:
        """Send commands in one write; `on_replies` is called once, with the last reply. Never raises."""
        if self._connection is not None and self._connection.send_each(commands, on_replies):
            return
        for command, on_reply in zip(commands, callbacks_for(len(commands), on_replies), strict=True):
            self.call(command, on_reply)

    async def ask(self, *command: Argument) -> Any:
        """Send a command, and return its reply. Raises the reply if it is an exception."""
        return await reply_to(lambda on_reply: self.call(command, on_reply))

    def drop(self, why: str, unless_at: Address | None = None) -> None:
        """Close the connection, unless it leads to the address `unless_at`.

        Waiting callbacks get an error with `why`.
        """
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
        error: Exception = RedisConnectionError("the connection broke at once")
        try:
            opened = await open_connection(self.client)
            self._connection = _Connection(opened, self._patience, self._forget)
        except Exception as raised:
            error = bare(raised)
        finally:
            self._connecting = None
        for command, on_reply in self._take_waiting():
            if self._connection is not None:
                self._connection.send(command, on_reply, trusted=True)
            else:
                _pass(on_reply, NotSent(error))

    def _give_up(self) -> None:
        """Fail the commands that wait for a connection; the connection may still come, for later commands."""
        for _, on_reply in self._take_waiting():
            error = RedisTimeoutError(f"no connection within {self._patience * 1000:.0f} ms")
            _pass(on_reply, NotSent(error))

    def _take_waiting(self) -> list[tuple[Command, OnReply]]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        return waiting

    def _forget(self) -> None:
        self._connection = None


class _Connection(asyncio.Protocol):
    """One connection, which redis-py has opened.

    `on_lost` is called when it cannot be used any longer, before the waiting callbacks are.
    """

    def __init__(self, opened: OpenConnection, patience: float, on_lost: Callable[[], None]) -> None:
        self.address = opened.address
        self._loop = asyncio.get_running_loop()
        self._stream = opened.stream  # keep a reference: asyncio closes a stream without one
        self._transport = opened.stream.transport
        self._on_lost = on_lost
        self._patience = patience
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOT_YET
        )
        self._pending: deque[OnReply] = deque()
        self._unsent: list[bytes] = []
        """Commands of this turn of the loop."""
        self._heard = self._loop.time()
        """When data was last received, or a command was sent while no reply was pending."""
        self._late = -1.0
        """The value of `_heard` when the last reply was found to be overdue."""
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._failed = False
        self._transport.set_protocol(self)

    @property
    def busy(self) -> bool:
        """Whether a callback waits for a reply."""
        return bool(self._pending)

    def send(self, command: Command, on_reply: OnReply, *, trusted: bool = False) -> bool:
        """Send a command; return False if the connection was silent for too long to be used.

        With `trusted` that is not checked. The command is written at once if no reply is pending, otherwise
        together with all others of this turn of the event loop.
        """
        if not self._pending and not self._may_be_used(trusted=trusted):
            return False
        try:
            data = pack(command)
        except Exception as error:
            _pass(on_reply, bare(error))
            return True
        self._write(data)
        self._pending.append(on_reply)
        return True

    def send_each(self, commands: Sequence[Command], on_replies: OnReplies) -> bool:
        """Send commands together, as `send` does; return False if nothing was sent."""
        if not self._pending and not self._may_be_used():
            return False
        try:
            data = b"".join([pack(command) for command in commands])
        except Exception:
            return False  # `send` finds out which command it is
        self._write(data)
        on_reply = _Replies(len(commands), on_replies)
        self._pending.extend([on_reply] * len(commands))
        return True

    def _may_be_used(self, *, trusted: bool = False) -> bool:
        """Return whether this connection, which has no reply pending, was not silent for too long."""
        now = self._loop.time()
        if now > self._heard + _TRUSTED and not trusted:
            return False
        self._heard = now
        return True

    def _write(self, data: bytes) -> None:
        if self._pending:
            if not self._unsent:
                self._loop.call_soon(self._send_rest)
            self._unsent.append(data)
            return
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)
        self._transport.write(data)

    def _send_rest(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self._failed:
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        """Pass each reply to its callback."""
        self._heard = self._loop.time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOT_YET:
                if not self._pending:
                    raise InvalidResponse("a reply to no command")
                _pass(self._pending.popleft(), reply)
        except (
            Exception
        ) as error:  # redis-py's parser of errors raises anything, for a MOVED without an address
            self.fail(error)
        if self._drained is not None and not self._pending:
            self._drained.set_result(None)
            self._drained = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail: the peer has closed the connection, or the network has."""
        self.fail(RedisConnectionError(str(exc) if exc else "Connection closed by server."))

    def fail(self, error: Exception) -> None:
        """Close the connection at once, and pass the error to every waiting callback."""
        if self._failed:
            return
        self._failed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._on_lost()
        while self._pending:
            _pass(self._pending.popleft(), error)
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    async def drained(self) -> None:
        """Wait until no callback waits for a reply."""
        if self._pending:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _look(self) -> None:
        """Check that replies still arrive, and check again when the next one is overdue."""
        self._timer = None
        if not self._pending:
            return
        due = self._heard + self._patience
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
        elif self._late != self._heard:
            # This process itself may have been stopped: check once more after reading what has arrived.
            self._late = self._heard
            self._timer = self._loop.call_later(_MEANWHILE, self._look)
        else:
            self.fail(RedisTimeoutError(f"no answer within {self._patience * 1000:.0f} ms"))


class _Replies:
    """Collects the replies to commands that were sent together, and passes them on with the last one."""

    __slots__ = ("_missing", "_on_replies", "_replies")

    def __init__(self, missing: int, on_replies: OnReplies) -> None:
        self._missing = missing
        self._on_replies = on_replies
        self._replies: list[Any] = []

    def __call__(self, reply: Any) -> None:
        self._replies.append(reply)
        if len(self._replies) == self._missing:
            self._on_replies(self._replies)


def _pass(on_reply: OnReply, reply: Any) -> None:
    """Call a callback. If it fails, the replies of others must not be lost."""
    try:
        on_reply(reply)
    except Exception as error:
        report("a reply of Redis could not be processed", error)
