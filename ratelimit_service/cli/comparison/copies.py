"""Copies of the bytes of callers and of the first service, on their way from the tee to the process that
compares.

The process that answers never waits for the other. Copies that the other has not read wait in memory up to a
bound; beyond it, connections are no longer followed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Protocol, cast

MOST_WAITING = 32 << 20
"""The most bytes of copies that wait."""

_RECORD = struct.Struct(">BQI")
OPENED, FROM_CALLER, FROM_THEIRS, CLOSED, MISSED = range(5)


class Receiver(Protocol):
    """Gets the copies. `number` identifies a connection."""

    def opened(self, number: int) -> None:
        """Take the start of a connection."""

    def from_caller(self, number: int, data: bytes) -> None:
        """Take bytes that a caller has sent."""

    def from_theirs(self, number: int, data: bytes) -> None:
        """Take bytes that the first service has sent."""

    def closed(self, number: int) -> None:
        """Take the end of a connection."""

    def missed(self, number: int) -> None:
        """Note that no more bytes of a connection follow, only its end."""


class Sender(asyncio.Protocol):
    """A Receiver that passes copies to the other process. `on_gone` is called if that ends before `close`."""

    def __init__(self, on_gone: Callable[[], None], most_waiting: int = MOST_WAITING) -> None:
        self._on_gone = on_gone
        self._most = most_waiting
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._records: list[bytes] = []
        self._size = 0
        self._missed: set[int] = set()
        self._closing = False
        self._ended: asyncio.Future[None] = self._loop.create_future()

    @property
    def waiting(self) -> int:
        """The bytes that wait."""
        return self._size + (0 if self._transport is None else self._transport.get_write_buffer_size())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._records.clear()
        self._size = 0
        self._ended.set_result(None)
        if not self._closing:
            self._on_gone()

    def opened(self, number: int) -> None:
        """See Receiver."""
        self._put(OPENED, number)

    def from_caller(self, number: int, data: bytes) -> None:
        """See Receiver."""
        self._put(FROM_CALLER, number, data)

    def from_theirs(self, number: int, data: bytes) -> None:
        """See Receiver."""
        self._put(FROM_THEIRS, number, data)

    def closed(self, number: int) -> None:
        """See Receiver."""
        self._missed.discard(number)  # else the receiver would keep the connection for ever
        self._put(CLOSED, number)

    def missed(self, number: int) -> None:
        """See Receiver."""
        if number not in self._missed:
            self._put(MISSED, number)
            self._missed.add(number)

    async def close(self, patience: float) -> bool:
        """Pass on the remaining copies, and return whether they were sent within `patience` seconds; the rest
        is dropped.

        The other process ends when it has read them.
        """
        self._closing = True
        self._flush()
        if self._transport is not None:
            self._transport.close()
            try:
                await asyncio.wait_for(asyncio.shield(self._ended), patience)
            except TimeoutError:
                self._transport.abort()
                await self._ended
                return False
        return True

    def _put(self, kind: int, number: int, data: bytes = b"") -> None:
        if self._transport is None or number in self._missed:
            return
        if data and self.waiting + len(data) > self._most:
            self.missed(number)
            return
        if not self._records:
            self._loop.call_soon(self._flush)
        self._records += (_RECORD.pack(kind, number, len(data)), data)
        self._size += _RECORD.size + len(data)

    def _flush(self) -> None:
        data = b"".join(self._records)
        self._records.clear()
        self._size = 0
        if data and self._transport is not None:
            self._transport.write(data)


class Reader(asyncio.Protocol):
    """Reads what a Sender sends, and passes it to a receiver. `ended` is done when there is no more."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        data = self._buffer + data if self._buffer else data
        receiver, at, size = self._receiver, 0, len(data)
        while at + _RECORD.size <= size:
            kind, number, length = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size + length
            if end > size:
                break
            content = data[at + _RECORD.size : end]
            at = end
            if kind == FROM_CALLER:
                receiver.from_caller(number, content)
            elif kind == FROM_THEIRS:
                receiver.from_theirs(number, content)
            elif kind == OPENED:
                receiver.opened(number)
            elif kind == CLOSED:
                receiver.closed(number)
            else:
                receiver.missed(number)
        self._buffer = data[at:]
