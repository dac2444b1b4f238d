"""The connections of one HTTP port: accepted here, a bounded number at a time, and closed when their peers keep them waiting.

At the bound, a new connection takes the place of the one whose peer has kept the port waiting for the longest time: a thousand
silent connections do not keep a health check from being answered. TLS handshakes count as connections.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import structlog

from .connection import Connection
from .messages import Handler

_LOOK = 1.0
"""Seconds between two looks at all connections."""

_LATE = 1.0
"""Seconds beyond its time after which a look says that this process itself stood still."""

_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before the event loop goes on, and those that were closed for them give their descriptors back."""

_LAST_WORDS = 1.0
"""Seconds, at the stop, that requests have to end once they are cancelled."""

_BETWEEN_LINES = 60.0
"""Seconds between two lines of the log that say that a port is at its limit."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SOON, _LATER = 0.01, 0.5
"""Seconds until the next try to accept where the system has no room: after a connection was closed for it, and where there was
none."""


class Connections:
    """At most `most` connections, whose requests `handler` answers. The log calls the port `what`."""

    def __init__(self, handler: Handler, most: int, what: str, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._most = most
        self._what = what
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._all: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Those whose peers the port waits for, for the longest time first."""
        self._looking: asyncio.TimerHandle | None = None
        self._looked_at = 0.0
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
        """Accept no more, close what is idle, and let requests in hand be answered."""
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
        """Wait until all connections are closed. After `grace` seconds, cancel requests, whose callers get an error."""
        for timeout in (grace, _LAST_WORDS):
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=timeout)
            for task in self._tasks:
                task.cancel()

    # What connections call.

    def waits(self, connection: Connection) -> None:
        """The port waits for the peer of a connection, as it may have done before."""
        if connection not in self._waiting and connection in self._all:
            connection.waiting_since = asyncio.get_running_loop().time()
            self._waiting[connection] = None

    def waits_no_more(self, connection: Connection) -> None:
        """It is the peer that waits now."""
        self._waiting.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        """A connection has gone."""
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    # Accepting, and looking after them.

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                opened, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._have_no_room(listening, error)
                    return
                continue  # the peer has gone already
            self._short = False
            if len(self._all) >= self._most:
                self._report_limit()
                if not self._make_room():
                    opened.close()
                    continue
            opened.setblocking(False)
            if opened.family != socket.AF_UNIX:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._begin(Connection(self, self._handler, opened))
            if self._looking is None:
                self._look_again()

    def _begin(self, connection: Connection) -> None:
        self._all.add(connection)
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
                "a port has all the connections that it may have: the ones that are silent for the longest time are closed",
                port=self._what,
                connections=len(self._all),
            )

    def _make_room(self) -> bool:
        """Close the connection whose peer has kept the port waiting for the longest time; False where there is none."""
        for connection in self._waiting:
            self.lost(connection)
            connection.abort()
            return True
        return False

    def _have_no_room(self, listening: socket.socket, error: OSError) -> None:
        """Come back once there may be descriptors again; what waits to be accepted would else call this without end."""
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

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        self._looked_at = loop.time()
        self._looking = loop.call_later(_LOOK, self._look)

    def _look(self) -> None:
        """Close the connections whose peers keep the port waiting."""
        now = asyncio.get_running_loop().time()
        try:
            # Where this process stood still itself, what the peers have sent meanwhile is read first.
            if now - self._looked_at < _LOOK + _LATE:
                for connection in tuple(self._waiting):
                    connection.look(now)
        finally:
            self._looking = None
            if self._all:
                self._look_again()
