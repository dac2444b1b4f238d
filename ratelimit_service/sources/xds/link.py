"""The connection of a call to a control plane: sockets, TLS, and the detection of a dead peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from time import perf_counter
from typing import Protocol, cast

from .call import End, StreamingCall
from .server import Server
from .spool import Spool

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"

_CONNECTS_WITHIN = 20.0
"""Seconds for DNS, the connection, the TLS handshake and the first frame of the server."""

_IDLE, _BETWEEN, _PROBES = 30, 10, 3
"""TCP keepalive: seconds of silence before the first probe, seconds between probes, and unanswered probes.

gRPC servers do not see these probes. They close connections with HTTP/2 pings more often than every five
minutes.
"""

_PONGS_WITHIN = 20.0
"""Seconds until an unanswered ping ends the call: the kernel of a stuck process still answers probes."""


_SLICE, _BREATH = 0.0005, 0.001
"""Seconds that bytes are processed in one turn of the event loop, and the seconds until the next turn."""

_PIECE = 4_096
"""Bytes that are processed at least: a third of a slice in frames of 16 kB, three milliseconds in empty
frames.
"""


class Unreachable(Exception):
    """The connection failed. The message is one line with the reason."""


class DiscoveryEnded(Exception):
    """The call has ended."""

    def __init__(self, end: End) -> None:
        super().__init__(end.why)
        self.end = end


class DiscoveryCall(Protocol):
    """An open call."""

    def send(self, message: bytes) -> None:
        """Send a request."""
        ...

    async def receive(self) -> Spool:
        """Wait for a response. Raises DiscoveryEnded."""
        ...

    def close(self) -> None:
        """End the call."""
        ...


class Link(asyncio.Protocol):
    """A call and its connection. `connect` creates it."""

    def __init__(self, call: StreamingCall, keepalive: float) -> None:
        self._call = call
        self._keepalive = keepalive
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until `connection_made`
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ping_at = 0.0
        self._unanswered_since: float | None = None
        """The time of the unanswered ping, if any."""
        self._pongs = 0
        self._backlog = bytearray()
        """Bytes that the next turns process."""
        self._spent = 0.0
        """Seconds spent since the last pause."""
        self._full = False
        """Whether the peer does not read. Reading from it goes on once it reads again."""
        self._resuming: asyncio.TimerHandle | None = None

    def send(self, message: bytes) -> None:
        """Send a message, unless the call has ended."""
        if self._call.end is None:
            self._call.send(message)
            self._flush()

    async def receive(self) -> Spool:
        """Return the newest message, or wait for one. Older ones are dropped: each is a complete set.

        Raises DiscoveryEnded.
        """
        while not self._call.messages:
            if self._call.end is not None:
                raise DiscoveryEnded(self._call.end)
            self._news.clear()
            await self._news.wait()
        return self._call.messages.pop()

    async def opened(self) -> None:
        """Wait for the first frame of the peer. Raises DiscoveryEnded.

        With TLS 1.3, a server rejects a client certificate only after the handshake of the client.
        """
        while not self._call.answered:
            if self._call.end is not None:
                raise DiscoveryEnded(self._call.end)
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """End the call, and close the connection."""
        self._call.close()
        self._over()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        _probe(transport.get_extra_info("socket"))
        if self._keepalive:
            self._ping_at = self._loop.time() + self._keepalive
            self._watch()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._backlog += data
        if self._resuming is None:
            self._process()

    def pause_writing(self) -> None:
        """See asyncio.Protocol. A peer that does not read answers to its pings would fill the memory."""
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._full = False
        if self._resuming is None and not self._transport.is_closing():
            self._process()
            self._read_on()

    def _process(self) -> None:
        """Process the backlog until it is empty or the slice is over, and then pause.

        uvloop would read without a pause as long as there is input, and there are thousands of small frames
        in one read.
        """
        while self._backlog and self._spent < _SLICE and self._call.end is None:
            began = perf_counter()
            piece = bytes(self._backlog[:_PIECE])
            del self._backlog[:_PIECE]
            try:
                self._call.feed(piece)
            except OSError as error:  # no descriptor or memory for a message
                self._lose(
                    "RESOURCE_EXHAUSTED", f"there is no room for its message: {error.strerror or error}"
                )
            self._spent += perf_counter() - began
        self._flush()
        if self._spent >= _SLICE and self._call.end is None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._resuming = self._loop.call_later(_BREATH, self._resume)

    def _resume(self) -> None:
        self._spent, self._resuming = 0.0, None
        if not self._full:
            self._process()
            self._read_on()

    def _read_on(self) -> None:
        if self._resuming is None and not (self._full or self._transport.is_closing()):
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._lose(
            "UNAVAILABLE", f"the connection is lost: {reason(exc)}" if exc else "it has closed the connection"
        )

    def _flush(self) -> None:
        if data := self._call.drain():
            self._transport.write(data)
        self._news.set()
        if self._call.end is not None:
            self._over()

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._resuming is not None:
            self._resuming.cancel()
        if not self._transport.is_closing():
            if data := self._call.drain():
                self._transport.write(data)
            self._transport.close()

    def _lose(self, code: str, why: str) -> None:
        if self._call.end is None:
            self._call.end = End(code, why)
        self._news.set()
        self._over()

    def _watch(self) -> None:
        """Ping the peer when it is time, and end the call if it does not answer."""
        now = self._loop.time()
        if self._call.pongs != self._pongs:
            self._pongs, self._unanswered_since = self._call.pongs, None
        if self._unanswered_since is not None and now - self._unanswered_since >= _PONGS_WITHIN:
            self._lose("UNAVAILABLE", f"it has not answered a ping for {_PONGS_WITHIN:g} s")
            self._transport.abort()
            return
        if self._unanswered_since is None and now >= self._ping_at:
            self._unanswered_since, self._ping_at = now, now + self._keepalive
            self._call.ping()
            self._flush()
        if self._call.end is None:
            self._timer = self._loop.call_later(min(self._keepalive, _PONGS_WITHIN), self._watch)


async def connect(server: Server, largest: int, keepalive: float) -> Link:
    """Connect to a control plane. The certificate files are read now. Raises Unreachable."""
    tls = None
    try:
        if server.tls is not None:
            tls = await asyncio.to_thread(server.tls.context)
        async with asyncio.timeout(_CONNECTS_WITHIN):
            return await _connect(server, tls, largest, keepalive)
    except TimeoutError:
        raise Unreachable(f"no connection within {_CONNECTS_WITHIN:g} s") from None
    except DiscoveryEnded as error:
        raise Unreachable(error.end.why) from None
    except (OSError, ssl.SSLError, UnicodeError, ValueError) as error:
        raise Unreachable(reason(error)) from None


async def _connect(server: Server, tls: ssl.SSLContext | None, largest: int, keepalive: float) -> Link:
    """Connect to the first address of the host that answers. Raises OSError, DiscoveryEnded."""
    if server.path:
        return await _at(server, server.path, tls, largest, keepalive)
    found = await asyncio.get_running_loop().getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    addresses = [str(place[0]) for *_, place in found]
    for number, address in enumerate(addresses, 1):
        try:
            # Without this timeout, an address that does not answer takes two minutes.
            async with asyncio.timeout(_CONNECTS_WITHIN / len(addresses)):
                return await _at(server, address, tls, largest, keepalive)
        except (OSError, DiscoveryEnded):
            if number == len(addresses):
                raise
    raise OSError("the host has no address")


async def _at(
    server: Server, address: str, tls: ssl.SSLContext | None, largest: int, keepalive: float
) -> Link:
    loop = asyncio.get_running_loop()

    def made() -> Link:
        call = StreamingCall(
            PATH, server.authority, secure=tls is not None, headers=server.headers, largest=largest
        )
        return Link(call, keepalive)

    name = server.tls.name if server.tls is not None else None
    if server.path:
        _, link = await loop.create_unix_connection(made, address, ssl=tls, server_hostname=name)
    else:
        _, link = await loop.create_connection(made, address, server.port, ssl=tls, server_hostname=name)
    try:
        await link.opened()
    except BaseException:
        link.close()
        raise
    return link


def reason(error: BaseException | None) -> str:
    """Return the reason for a failed connection, in one line."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
        case OSError():
            return error.strerror or str(error)
    return str(error)


def _probe(connection: socket.socket | None) -> None:
    """Let the kernel detect a peer that has disappeared."""
    if connection is None or connection.family == socket.AF_UNIX:
        return
    options = {
        "TCP_KEEPIDLE": _IDLE,
        "TCP_KEEPINTVL": _BETWEEN,
        "TCP_KEEPCNT": _PROBES,
        # The same for unacknowledged data.
        "TCP_USER_TIMEOUT": 1_000 * (_IDLE + _BETWEEN * _PROBES),
    }
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
