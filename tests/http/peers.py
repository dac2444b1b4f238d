"""A small HTTP port, and clients that need not follow the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from ratelimit_service.http.messages import Request, Response, text
from ratelimit_service.http.server import HttpPort
from ratelimit_service.listening.certificates import Certificates
from testing.service import port_of

LONG = 60.0
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PARTS = {
    "nothing": b"",
    "half a line": b"GET /heal",
    "half a head": b"GET / HTTP/1.1\r\nhost: x\r\n",
    "half a body": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345",
}


class App:
    """Answers after reading the body. `/held` waits until it is released, and `/long` has more than any
    buffer holds.
    """

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.held = 0

    async def __call__(self, request: Request) -> Response:
        async for _ in request.body:
            pass
        if request.path == "/held":
            self.held += 1
            await self.released.wait()
        return text("x" * 20_000_000 if request.path == "/long" else "hello")


class Peer:
    """A connected client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> bytes:
        """Return the first line of the answer; empty if the connection was closed."""
        async with asyncio.timeout(LONG):
            try:
                return await self._reader.readline()
            except ConnectionError:
                return b""

    async def closed(self) -> bool:
        """Wait until the connection is closed."""
        async with asyncio.timeout(LONG):
            with contextlib.suppress(ConnectionError):
                while await self._reader.read(1_000_000):
                    pass
        return True

    @property
    def is_open(self) -> bool:
        """Return whether the connection is open, as far as this end knows."""
        return not self._reader.at_eof() and self._reader.exception() is None

    def close(self) -> None:
        self._writer.transport.abort()


class Port:
    """A port with room for three connections, and its clients."""

    def __init__(self, certificates: Certificates | None) -> None:
        self.app = App()
        self.port = HttpPort(self.app, "127.0.0.1", 0, certificates=certificates, most=3)
        self._peers: list[Peer] = []

    async def connect(self, *, tls: ssl.SSLContext | None = None, send: bytes = b"") -> Peer:
        name = "localhost" if tls is not None else None
        number = port_of(self.port.address)
        peer = Peer(*await asyncio.open_connection("127.0.0.1", number, ssl=tls, server_hostname=name))
        self._peers.append(peer)
        peer.send(send)
        return peer

    @property
    def count(self) -> int:
        """The number of connections, as the port counts them."""
        assert self.port._connections is not None
        return len(self.port._connections)

    async def stop(self) -> None:
        for peer in self._peers:
            peer.close()
        self.app.released.set()
        await self.port.stop(1)
