"""gRPC on nghttp2: all calls that are read in one turn of the event loop are decided together.

`_http2.Session` implements HTTP/2 without sockets and timers, which asyncio provides. It is compiled if a
compiler and nghttp2 are installed. The transport behaves like grpcio.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from typing import TYPE_CHECKING, ClassVar

from ...core.errors import StartError
from ...listening.addresses import PLAINTEXT, Address, SocketPath, why
from ...runtime.health import Health
from ..contract import OnAnswered, ignore_answered
from ._http2 import NativeCall, library_version
from .accepting import Accepting
from .calls import Calls
from .connection import Connection
from .health import HealthService
from .lifetime import NOTICE
from .methods import REFLECT
from .peers import Peers, each
from .reflection import ReflectionService
from .tls import Tls

if TYPE_CHECKING:
    from ...service import RateLimitService
    from ..options import GrpcOptions

_BACKLOG = 1_024
_LARGEST_READ = 16_384
_OLDEST_LIBRARY = 0x013400
"""nghttp2 1.52.0, as nghttp2 numbers its versions."""


def check_library() -> None:
    """Raise StartError if the loaded libnghttp2 is too old."""
    number, version = library_version()
    if number < _OLDEST_LIBRARY:
        raise StartError(f"it needs libnghttp2 1.52 or newer, and {version} is loaded")


class NativeServer:
    """A contract.GrpcServer, and a Host for its connections. It serves reflection as well."""

    TRANSPORT: ClassVar[str] = "native"

    def __init__(
        self,
        service: RateLimitService,
        health: Health,
        options: GrpcOptions,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        self.options = options
        self.traced = service.traced
        self.address = options.address
        """The address that it listens on, once started."""
        self._health = HealthService(health)
        self._reflection = ReflectionService()
        self._calls = Calls(service, options, on_answered, self._take_other, self._relieve)
        self.turn = self._calls.turn
        self.buffer = memoryview(bytearray(_LARGEST_READ))
        """The buffer that the event loop reads into."""
        self.peers = Peers(options, self.turn.budget)
        self.plaintext = options.plaintext
        """The second address, without TLS, once started; empty if there is none."""
        self._tls: ssl.SSLContext | None = None
        self._accepting: list[Accepting] = []
        self._path: SocketPath | None = None
        self._leaving = False

    @property
    def in_hand(self) -> int:
        """The calls that were read and are not yet answered."""
        return self._calls.in_hand

    async def start(self) -> None:
        """Open the ports. Raises StartError if one cannot be opened."""
        plaintext = None
        if self.plaintext:
            plaintext = Address.of(self.plaintext).listen(PLAINTEXT, _BACKLOG, shared=self.options.shared)
        try:
            listening = self._listen()
        except StartError:
            if plaintext is not None:
                plaintext.close()
            raise
        certificates = self.options.certificates
        self._tls = certificates.server_context("h2") if certificates is not None else None
        self._accepting = [Accepting(listening, self._connection)]
        if plaintext is not None:
            self.plaintext = str(Address.of(self.plaintext)._replace(port=plaintext.getsockname()[1]))
            self._accepting.append(Accepting(plaintext, self._plaintext_connection))
        for accepting in self._accepting:
            accepting.start(_BACKLOG)
        if self._path is not None:
            self._path.publish()
        self.peers.watch()

    async def drain(self) -> None:
        """Report NOT_SERVING from now on (contract.GrpcServer)."""
        self._health.drain()

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and give those in flight `grace` seconds (contract.GrpcServer)."""
        if not self._accepting:
            return
        self._health.leave()
        self._reflection.leave()
        if self.peers:
            each(self.peers, Connection.announce)
            # The port stays open meanwhile for peers that know no other replica and reconnect at once.
            await asyncio.sleep(min(NOTICE, grace))
        self._leaving = True
        for accepting in self._accepting:
            await accepting.stop()
        if self._path is not None:
            self._path.release()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                each(self.peers, Connection.leave)
                await self.peers.empty.wait()
        each(self.peers, Connection.abort)
        await self.peers.empty.wait()
        self._calls.process()
        self.peers.ignore()

    # host.Host, for connections.

    def made(self, connection: Connection) -> bool:
        """Accept a new connection; return False if there are too many, or the server stops."""
        return not self._leaving and self.peers.add(connection)

    def lost(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self.peers.remove(connection)
        if connection.session is not None:
            self._health.forget(connection.session)
            self._reflection.forget(connection.session)

    def _take_other(self, call: NativeCall) -> None:
        (self._health if call.method < REFLECT else self._reflection).handle(call)

    def _listen(self) -> socket.socket:
        """Return a listening socket. Raises StartError."""
        address = self.options.address
        if self.options.listening >= 0:
            return socket.socket(fileno=self.options.listening)
        if not address.startswith("unix:"):
            wanted = Address.of(address)
            listening = wanted.listen("gRPC", _BACKLOG, shared=self.options.shared)
            self.address = str(wanted._replace(port=listening.getsockname()[1]))
            return listening
        self._path = SocketPath(address.removeprefix("unix:"))
        name = self._path.claim()
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(name)
        except OSError as error:
            listening.close()
            self._path.release()
            raise StartError(f"cannot listen for gRPC on {address}: {why(error)}") from None
        return listening

    def _connection(self) -> Connection:
        return self._made(Tls(self._tls) if self._tls is not None else None)

    def _plaintext_connection(self) -> Connection:
        return self._made(None)

    def _made(self, tls: Tls | None) -> Connection:
        # The age is random, so that connections that were made together do not all reconnect together.
        return Connection(self, self.options.max_connection_age * random.uniform(0.9, 1.1), tls)

    def _relieve(self) -> None:
        self.peers.relieve()
