"""The connections of one HTTP port: accepted here, so many at a time, and closed when their peers keep them waiting.

uvicorn has a timeout for connections between two requests, and none for one that never sends a request, sends it a byte at a
time, or does not read the answer; at its limit it answers 503, health checks too. So a thousand silent connections would make a
replica unhealthy. Here a new connection takes the place of the one whose peer has kept the port waiting for the longest time, and
TLS handshakes count as connections. This module uses uvicorn's protocol by what it shows to its subclasses: `cycle`, `transport`
and the methods of asyncio.Protocol.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any

import structlog
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

PATIENCE = 10.0
"""Seconds that a peer has for the handshake, for a whole request once it has connected or begun one, and for reading some of an
answer."""

KEEP_ALIVE = 75
"""Seconds between two requests of a connection, which is more than load balancers wait before they close it themselves."""

_LARGEST_HEAD = 16_384
"""Bytes of a request's line and headers; a larger one is answered 400. Each connection may hold as much."""

_LOOK = 1.0
"""Seconds between two looks at all connections."""

_LATE = 1.0
"""Seconds beyond its time after which a look says that this process itself stood still."""

_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before the event loop goes on, and those that were closed for them give their descriptors back."""

_BETWEEN_LINES = 60.0
"""Seconds between two lines of the log that say that a port is at its limit."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SOON, _LATER = 0.01, 0.5
"""Seconds until the next try to accept where the system has no room: after a connection was closed for it, and where there was
none."""


class Connection(H11Protocol):
    """One connection, known to its port from the moment in which it is accepted."""

    def __init__(self, host: Connections, config: Config, state: ServerState, opened: socket.socket) -> None:
        super().__init__(config, state, {})
        self._host = host
        self._socket = opened
        self.opening: asyncio.Task[None] | None = None
        """The handshake, as long as there is no transport."""
        self.waiting_since = 0.0
        """When the port began to wait for the peer; the loop's time."""
        self.heard_at = 0.0
        """When the peer sent the first byte of the request that is not complete; 0 while it has sent none."""
        self.served = False
        """Whether a request has been answered."""
        self._unread = -1
        """Bytes of the answer that the peer had not taken, at the last look since it stopped reading; else -1."""

    def begin(self, tls: ssl.SSLContext | None) -> None:
        """Make the transport, after the handshake where there is one."""
        self.opening = asyncio.get_running_loop().create_task(self._open(tls))

    async def _open(self, tls: ssl.SSLContext | None) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                self._socket,
                ssl=tls,
                ssl_handshake_timeout=PATIENCE if tls is not None else None,
            )
        except BaseException as error:
            self._socket.close()  # nothing, where a transport has it
            self._host.lost(self)
            if not isinstance(
                error, OSError | asyncio.CancelledError
            ):  # a handshake that fails, or is given up
                raise
        finally:
            self.opening = None

    def abort(self) -> None:
        """Close at once."""
        if self.opening is not None:
            self.opening.cancel()
        elif self.transport is not None:
            self.transport.abort()

    def overdue(self, now: float) -> bool:
        """Whether the peer has kept the port waiting for too long. Asked every second while it waits."""
        if (
            now - self.waiting_since > KEEP_ALIVE + PATIENCE
        ):  # uvicorn has closed it, and the peer does not read the rest
            return True
        if self._unread >= 0:
            before, self._unread = self._unread, self.transport.get_write_buffer_size()
            if self._unread < before:
                self.waiting_since = now
            return now - self.waiting_since > PATIENCE
        if self.heard_at:
            return now - self.heard_at > PATIENCE
        return not self.served and now - self.waiting_since > PATIENCE

    # What asyncio and uvicorn call.

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._host.lost(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self.heard_at:
            self.heard_at = self.loop.time()
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        self.served = True
        self.heard_at = 0.0
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._host.waits(self)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._unread = -1
        self._host.waits_no_more(self)
        self._look()

    def _look(self) -> None:
        """Tell the port whether it waits for the peer: for a whole request, or for an answer to be read."""
        cycle: Any = self.cycle  # None before the first request, which uvicorn's annotation does not say
        if cycle is None or cycle.response_complete or cycle.more_body or self._unread >= 0:
            self._host.waits(self)
        else:
            self._host.waits_no_more(self)


class Connections:
    """At most `most` connections to an application; `what` is what the log calls the port."""

    def __init__(self, app: ASGIApp, most: int, what: str, tls: ssl.SSLContext | None = None) -> None:
        self._config = Config(
            app,
            interface="asgi3",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=_LARGEST_HEAD,
        )
        self._config.load()
        self._most = most
        self._what = what
        self._tls = tls
        self._state = ServerState()
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

    @property
    def busy(self) -> bool:
        """Whether there are connections, or requests that are being answered."""
        return bool(self._all or self._state.tasks)

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
            try:
                connection.shutdown()
            except Exception:  # it has no transport yet, or h11 takes no more in the state that it is in
                connection.abort()

    def abort(self) -> None:
        """Cancel the requests in hand, whose callers get an error where there is still a way to tell them."""
        for task in self._state.tasks:
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
            connection = Connection(self, self._config, self._state, opened)
            self._all.add(connection)
            self.waits(connection)
            connection.begin(self._tls)
            if self._looking is None:
                self._look_again()

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
                for connection in [each for each in self._waiting if each.overdue(now)]:
                    connection.abort()
        finally:
            self._looking = None
            if self._all:
                self._look_again()
