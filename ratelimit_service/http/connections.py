"""The connections of one HTTP port: their number is bounded, and peers that keep the port waiting are
disconnected.

At the limit, a new connection replaces the one whose peer has kept the port waiting for the longest time, of
the network with the most connections. So a thousand silent connections do not block a health check, and those
of one address do not replace those of others. TLS handshakes count as connections.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import structlog

from ..listening.networks import Crowd, network_of
from .connection import Connection
from .messages import Handler
from .turns import Turns

_CHECK_EVERY = 1.0
"""Seconds between two checks of all connections."""

_LATE = 1.0
"""Seconds by which a check is late when the process was suspended."""

_LARGEST_READ = 16_384

_ACCEPTED_AT_ONCE = 16
"""Connections accepted before the event loop runs other callbacks, which free the descriptors of closed ones.
"""

_LAST_WORDS = 1.0
"""Seconds that cancelled requests have to send an error at the stop."""

_BETWEEN_LINES = 60.0
"""Seconds between two log lines about a port at its limit."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SOON, _LATER = 0.01, 0.5
"""Seconds before accepting again when the system is out of resources: if a connection was closed for the new
one, and if there was none to close."""


class Connections:
    """At most `most` connections, whose requests `handler` answers. The log calls the port `what`."""

    def __init__(self, handler: Handler, most: int, what: str, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._most = most
        self._what = what
        self._tls = tls
        self.buffer = memoryview(bytearray(_LARGEST_READ))
        """See connection.Host."""
        self._turns = Turns()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._all: set[Connection] = set()
        self._crowd: Crowd[Connection] = Crowd()
        """The connections whose peers keep the port waiting are idle."""
        self._check: asyncio.TimerHandle | None = None
        self._checked_at = 0.0
        self._short = False
        self._reported_at = float("-inf")
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._log = structlog.get_logger("ratelimit_service.http")

    def __len__(self) -> int:
        return len(self._all)

    def listen(self, listening: socket.socket) -> None:
        """Accept the connections of a listening socket."""
        listening.setblocking(False)
        self._sockets.append(listening)
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def refuse(self) -> None:
        """Stop accepting, close idle connections, and let requests in flight finish."""
        loop = asyncio.get_running_loop()
        for timer in self._timers.values():
            timer.cancel()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()
        for connection in tuple(self._all):
            connection.finish()

    async def finish(self, grace: float) -> None:
        """Wait until all connections are closed.

        After `grace` seconds, cancel their requests, which answers 500.
        """
        for timeout in (grace, _LAST_WORDS):
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=timeout)
            for task in self._tasks:
                task.cancel()

    # connection.Host

    async def turn(self) -> None:
        """See connection.Host."""
        await self._turns.turn()

    def waits(self, connection: Connection) -> None:
        """See connection.Host."""
        if not connection.waits and connection in self._all:
            connection.waits = True
            connection.waiting_since = asyncio.get_running_loop().time()
            self._crowd.idle(connection.network, connection)

    def waits_no_more(self, connection: Connection) -> None:
        """See connection.Host."""
        if connection.waits:
            connection.waits = False
            self._crowd.busy(connection.network, connection)

    def lost(self, connection: Connection) -> None:
        """See connection.Host."""
        if connection in self._all:
            self._all.discard(connection)
            self._crowd.remove(connection.network, connection)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                opened, peer = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._have_no_room(listening, error)
                    return
                continue  # the peer has left already
            self._short = False
            if len(self._all) >= self._most:
                self._report_limit()
                if not self._make_room():
                    opened.close()
                    continue
            opened.setblocking(False)
            if opened.family != socket.AF_UNIX:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._begin(Connection(self, self._handler, opened, network_of(peer)))
            if self._check is None:
                self._schedule_check()

    def _begin(self, connection: Connection) -> None:
        self._all.add(connection)
        self._crowd.add(connection.network)
        self.waits(connection)
        connection.task = task = asyncio.get_running_loop().create_task(connection.run(self._tls))
        self._tasks.add(task)
        task.add_done_callback(connection.ended)
        task.add_done_callback(self._tasks.discard)

    def _report_limit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._reported_at + _BETWEEN_LINES:
            self._reported_at = now
            self._log.warning(
                "a port has all the connections that it may have: the ones that are silent for the longest "
                "time are closed",
                port=self._what,
                connections=len(self._all),
            )

    def _make_room(self) -> bool:
        """Close a connection that waits. Return whether there was one."""
        connection = self._crowd.pop()
        if connection is None:
            return False
        self.lost(connection)
        connection.abort()
        return True

    def _have_no_room(self, listening: socket.socket, error: OSError) -> None:
        """Pause accepting: the event loop would call `_accept` without end while a connection waits to be
        accepted.
        """
        if not self._short:
            self._short = True
            self._log.error(
                "a connection cannot be accepted",
                port=self._what,
                error=error.strerror,
                connections=len(self._all),
            )
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        pause = _SOON if self._make_room() else _LATER

        def resume() -> None:
            del self._timers[listening]
            loop.add_reader(listening, self._accept, listening)

        self._timers[listening] = loop.call_later(pause, resume)

    def _schedule_check(self) -> None:
        loop = asyncio.get_running_loop()
        self._checked_at = loop.time()
        self._check = loop.call_later(_CHECK_EVERY, self._check_all)

    def _check_all(self) -> None:
        """Disconnect peers that keep the port waiting for too long."""
        now = asyncio.get_running_loop().time()
        try:
            # After a suspension of the process, first read what the peers have sent meanwhile.
            if now - self._checked_at < _CHECK_EVERY + _LATE:
                for connection in tuple(self._crowd.all_idle()):
                    connection.check(now)
        finally:
            self._check = None
            if self._all:
                self._schedule_check()
