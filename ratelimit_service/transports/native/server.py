"""gRPC by nghttp2: all calls that are read in one turn of the event loop are decided together.

`_http2.Session` speaks HTTP/2 without a socket, and is compiled where a compiler and nghttp2 are there; asyncio does
sockets and timers. Reflection is left to the transport by grpcio, which this one otherwise behaves like.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import StartError
from ...health import Health
from .calls import Calls
from .connection import NOTICE, PATIENCE, Connection
from .health import HealthService

if TYPE_CHECKING:
    from ...service import RateLimitService
    from ..options import GrpcOptions, Requested

_BACKLOG = 1_024
_LOOK = 1.0
"""Seconds between two looks at all connections."""


class NativeServer:
    """ShouldRateLimit and health on one address."""

    def __init__(
        self,
        service: RateLimitService,
        health_state: Health,
        options: GrpcOptions,
        requested: Requested = lambda method, seconds, calls=1: None,
    ) -> None:
        self.options = options
        self.address = options.address
        """Where it listens, once started."""
        self._health = HealthService(health_state)
        self._calls = Calls(service, options, requested, self._health.asked)
        self.turn = self._calls.turn
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._leaving = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def in_hand(self) -> int:
        """Calls read and not yet answered."""
        return self._calls.in_hand

    async def start(self) -> None:
        """Open the port. Raises StartError where it is taken."""
        address = self.options.address
        try:
            listening = _listen(address)
        except OSError as error:
            why = "is the port taken?" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise StartError(f"cannot listen for gRPC on {address}: {why}") from None
        if listening.family != socket.AF_UNIX:
            self.address = f"{address.rpartition(':')[0]}:{listening.getsockname()[1]}"
        loop = asyncio.get_running_loop()
        certificates = self.options.certificates
        tls = certificates.server_context("h2") if certificates is not None else None
        patience = PATIENCE if tls is not None else None
        open_server = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        self._server = await open_server(
            self._connection, sock=listening, backlog=_BACKLOG, ssl=tls, ssl_handshake_timeout=patience
        )
        self._looking = loop.call_later(_LOOK, self._look)

    async def drain(self) -> None:
        """Tell those who watch the health that this server is leaving; calls are still taken."""
        self._health.drain()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those in hand `grace` seconds."""
        if self._server is None:
            return
        self._health.leave()
        if self._connections:
            for connection in tuple(self._connections):
                connection.announce()
            # The port stays open meanwhile: a peer that knows no other replica comes back at once, and is served.
            await asyncio.sleep(min(NOTICE, grace))
        self._leaving = True
        self._server.close()
        if self.address.startswith("unix:"):
            _unlink(Path(self.address.removeprefix("unix:")))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                for connection in tuple(self._connections):
                    connection.leave()
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.abort()
        await self._empty.wait()
        self._calls.settle()
        if self._looking is not None:
            self._looking.cancel()

    # What connections call: native_connection.Host.

    def made(self, connection: Connection) -> bool:
        """A connection is there; False where there are too many, or none is taken any more."""
        if self._leaving or len(self._connections) >= self.options.max_connections:
            return False
        self._connections.add(connection)
        self._empty.clear()
        return True

    def lost(self, connection: Connection) -> None:
        """It has gone."""
        self._connections.discard(connection)
        self._health.forget(connection.session)
        if not self._connections:
            self._empty.set()

    def _connection(self) -> Connection:
        # Connections that were made together do not all come back together.
        return Connection(self, self.options.max_connection_age * random.uniform(0.9, 1.1))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        try:
            for connection in tuple(self._connections):
                connection.look(now)
        finally:
            self._looking = loop.call_later(_LOOK, self._look)


def _listen(address: str) -> socket.socket:
    """A socket that listens on host:port or unix:path, and that nobody shares. Raises OSError."""
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        if path.is_socket():  # of a process that did not end well: grpc does not ask for more, either
            _unlink(path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(path))
        except OSError:
            listening.close()
            raise
        return listening
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family, *_, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    return socket.create_server(place[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::")


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
