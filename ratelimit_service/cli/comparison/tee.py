"""A port in front of the first service: passes on the bytes of both sides as they come, and copies them.

Callers reach the first service as if they were connected to it: its answers, errors, headers, flow control
and limits pass through, and so do their deadlines, metadata and cancellations. Nothing is decoded on the way;
TLS ends here on both sides. If the first service cannot be reached, the caller's connection is closed, and
gRPC in the caller makes UNAVAILABLE of that, as it does without the tee.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from ...core.errors import StartError
from ...core.text import printable
from ...listening.addresses import Address, why
from ...runtime import descriptors
from .copies import Receiver
from .frames import END_STREAM, HEADERS, PREFACE, RST_STREAM, Heads, goaway

NOTICE = 0.1
"""Seconds between asking a caller to open no more streams and closing a connection without calls."""

_BACKLOG = 1_024
_OWN_DESCRIPTORS = 64
_TLS_END = 1.0
"""Seconds that a peer has to answer the end of TLS."""

_UNSENT = 1 << 20
"""Bytes that one side has not read, at which no more are read from the other."""


class Target(NamedTuple):
    """The address of the first service: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, address: str) -> Target:
        """Return the target whose text is `address`."""
        if address.startswith("unix:"):
            return cls("localhost", 0, address.removeprefix("unix:").replace("//", "", 1))
        return cls(*Address.of(address))


class Tee:
    """The port. `copies` gets a copy of all that passes, `notify` lines about the first service.

    `timeout` is in seconds, for opening a connection to the first service.
    """

    def __init__(
        self,
        theirs: Target,
        copies: Receiver,
        notify: Callable[[str], None],
        *,
        timeout: float,
        most_connections: int | None = None,
    ) -> None:
        self._theirs = theirs
        self._copies = copies
        self._notify = notify
        self._timeout = timeout
        self._most = most_connections or max(1, (descriptors.limit() - _OWN_DESCRIPTORS) // 2)
        self._server: asyncio.Server | None = None
        self._pairs: set[Pair] = set()
        self._numbers = 0
        self._unreachable = 0
        self._full = False
        self._empty = asyncio.Event()
        self.address = ""
        """The address that it listens on, once started."""

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept callers on a listening socket."""
        loop = asyncio.get_running_loop()
        ending = _TLS_END if tls is not None else None
        create: Callable[..., Awaitable[asyncio.Server]]
        if listener.family == socket.AF_UNIX:
            self.address = f"unix:{listener.getsockname()}"
            create = loop.create_unix_server
        else:
            self.address = str(Address(*listener.getsockname()[:2]))
            create = loop.create_server
        self._server = await create(
            self._accept, sock=listener, backlog=_BACKLOG, ssl=tls, ssl_shutdown_timeout=ending
        )

    async def stop(self, grace: float) -> None:
        """Accept no more callers, ask those that are there to open no more streams, and give calls in flight
        `grace` seconds.
        """
        if self._server is not None:
            self._server.close()
        for pair in self._pairs:
            pair.announce()
        if self._pairs:
            await asyncio.sleep(min(NOTICE, grace))
        for pair in list(self._pairs):
            pair.leave()
        try:
            async with asyncio.timeout(grace):
                while self._pairs:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            for pair in list(self._pairs):
                pair.abort()
            await asyncio.sleep(0)

    def _accept(self) -> asyncio.Protocol:
        self._numbers += 1
        pair = Pair(self, self._numbers, self._copies)
        return pair.caller

    # Called by pairs.

    def admit(self, pair: Pair) -> bool:
        """Return whether there is room for a connection."""
        room = len(self._pairs) < self._most
        if not room and not self._full:
            self._notify(f"no more than {self._most:,} connections: further callers are turned away")
        self._full = not room
        if room:
            self._pairs.add(pair)
        return room

    async def connect(self, pair: Pair) -> None:
        """Connect a pair with the first service, or close the caller's connection."""
        host, port, path, tls = self._theirs
        loop = asyncio.get_running_loop()
        name, ending = (host, _TLS_END) if tls is not None else (None, None)
        options: Any = {"ssl": tls, "server_hostname": name, "ssl_shutdown_timeout": ending}
        try:
            async with asyncio.timeout(self._timeout):
                if path:
                    await loop.create_unix_connection(lambda: pair.theirs, path, **options)
                else:
                    await loop.create_connection(lambda: pair.theirs, host, port, **options)
        except OSError as error:  # includes TimeoutError and ssl.SSLError
            if not self._unreachable:
                text = getattr(error, "verify_message", "") or error.strerror or str(error)
                self._notify(f"theirs cannot be reached: {text or f'no answer within {self._timeout:g} s'}")
            self._unreachable += 1
            pair.abort()
        else:
            if self._unreachable:
                self._notify(
                    f"theirs is reached again, after {self._unreachable:,} connections that were closed"
                )
                self._unreachable = 0

    def remove(self, pair: Pair) -> None:
        """Drop a pair that has ended."""
        self._pairs.discard(pair)
        if not self._pairs:
            self._empty.set()


class Pair:
    """A caller's connection and the one to the first service that belongs to it."""

    def __init__(self, tee: Tee, number: int, copies: Receiver) -> None:
        self._tee = tee
        self._number = number
        self._copies = copies
        self._task: asyncio.Task[None] | None = None
        self._asked, self._answered = Heads(len(PREFACE)), Heads()
        self._open: set[int] = set()
        """The streams of calls in flight."""
        self._newest = 0
        self._announcing = self._leaving = False
        self.ended = False
        """Whether one side has ended."""
        self.caller = Side(self, self.from_caller)
        self.theirs = Side(self, self.from_theirs)
        self.caller.other, self.theirs.other = self.theirs, self.caller

    def made(self, side: Side) -> None:
        """Take an open connection of one side."""
        if side is self.caller:
            side.pause_reading()
            if not self._tee.admit(self):
                self.ended = True
                side.abort()
                return
            self._copies.opened(self._number)
            self._task = asyncio.create_task(self._tee.connect(self))
        elif self.ended:
            side.abort()
        else:
            self.caller.resume_reading()

    def from_caller(self, data: bytes) -> None:
        """Follow bytes of a caller, which were passed on already."""
        self._copies.from_caller(self._number, data)
        for kind, _, stream in self._asked.feed(data):
            if kind == HEADERS and stream > self._newest:
                self._newest = stream
                self._open.add(stream)
            elif kind == RST_STREAM:
                self._open.discard(stream)
        self._leave_if_idle()

    def from_theirs(self, data: bytes) -> None:
        """Follow bytes of the first service, which were passed on already."""
        self._copies.from_theirs(self._number, data)
        for kind, flags, stream in self._answered.feed(data):
            if kind == RST_STREAM or (kind <= HEADERS and flags & END_STREAM):
                self._open.discard(stream)
        if self._announcing:
            self.announce()
        self._leave_if_idle()

    def lost(self, side: Side) -> None:
        """Note the end of one side: the other ends as well, once it has sent the rest."""
        if not self.ended:
            self.ended = True
            self._copies.closed(self._number)
        if side is self.caller:
            if self._task is not None:
                self._task.cancel()
            self._tee.remove(self)
        side.other.close()

    def announce(self) -> None:
        """Ask the caller to open no more streams, as soon as a frame can be inserted."""
        self._announcing = not self._answered.between
        if not self._announcing:
            self.caller.write(goaway())

    def leave(self) -> None:
        """Close when no call is in flight."""
        self._leaving = True
        self._leave_if_idle()

    def abort(self) -> None:
        """Close at once."""
        self.caller.abort()
        self.theirs.abort()

    def _leave_if_idle(self) -> None:
        # The head of the last frame of an answer ends its call here, but the caller needs the rest of it.
        passed = self._answered.between or not self._answered.begun
        if self._leaving and not self._open and passed:
            self.caller.close()
            self.theirs.close()


class Side(asyncio.Protocol):
    """One connection of a pair. What it receives goes to the other side first, then to `note`."""

    other: Side

    def __init__(self, pair: Pair, note: Callable[[bytes], None]) -> None:
        self._pair = pair
        self._note = note
        self._transport: asyncio.Transport | None = None
        self._input_ended = self._output_ended = False
        self._early = b""
        """Bytes that arrived before the connection was open: with TLS, the other side may have read them
        already.
        """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_UNSENT)
        if self._early:
            self._transport.write(self._early)
            self._early = b""
        self._pair.made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.other.write(data)
        self._note(data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol. Pass the end of input on, so that answers can still come; TLS cannot."""
        self._input_ended = True
        if self.other._input_ended:
            self.other.close()
            return False
        return self.other.write_eof()

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Back-pressure: stop reading from the other side."""
        self.other.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._pair.lost(self)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._output_ended:
            return
        if self._transport is not None:
            self._transport.write(data)
        elif not self._pair.ended:
            self._early += data

    def write_eof(self) -> bool:
        """Send the end of input; return whether that is possible."""
        if self._transport is None or not self._transport.can_write_eof():
            return False
        self._output_ended = True
        self._transport.write_eof()
        return True

    def pause_reading(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close once the rest is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def listen(address: str) -> socket.socket:
    """Return a listening socket. Raises StartError."""
    if not address.startswith("unix:"):
        return Address.of(address).listen("callers", _BACKLOG)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(Target.of(address).path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen for callers on {printable(address)}: {why(error)}") from None
    return listener
