"""One connection of the native transport: what asyncio reads and writes, round a `_http2.Session`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from ...tls import is_for
from ..grpc_method import PATH
from ._http2 import Session, Turn

if TYPE_CHECKING:
    from ..options import GrpcOptions

CHECK, WATCH = 1, 2
PATHS = (PATH.encode(), b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch")
"""The methods that are served; the first is ours, CHECK and WATCH are the places of the others."""

_MOST_UNWRITTEN = 262_144
"""Bytes that the socket has not taken after which a connection is no longer read from, until it has."""

PATIENCE = 10.0
"""Seconds that a peer has for introducing itself, and for reading replies, before it is cut off."""

_MOST_IDLE = 3_600.0
"""Seconds without a stream after which the peer is asked to leave; it may come back."""

NOTICE = 0.1
"""Seconds between asking a peer to open no more streams and taking none: what it has sent meanwhile is served."""


class Host(Protocol):
    """The server, as its connections know it."""

    @property
    def options(self) -> GrpcOptions:
        """The limits."""
        ...

    @property
    def turn(self) -> Turn:
        """What all connections have read."""
        ...

    def made(self, connection: Connection) -> bool:
        """A connection is there; False where there are too many."""
        ...

    def lost(self, connection: Connection) -> None:
        """It has gone."""
        ...


class Connection(asyncio.Protocol):
    """Reads calls into the turn, and writes at its end what they are answered with.

    `maximum_age` is seconds; 0 is for ever.
    """

    def __init__(self, host: Host, maximum_age: float) -> None:
        options = host.options
        self._host = host
        self._maximum_age = maximum_age
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until `connection_made`
        largest = options.max_message_bytes
        self.session = Session(host.turn, self, PATHS, largest, 2 * largest + 1_048_576)
        self.forbidden = False
        """Whether none of its calls is answered, because of the peer's certificate; health checks are."""
        self._paused = False
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0
        self._stuck_since = self._busy_at = self._made_at = self._loop.time()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._host.made(self):
            self._gone = True
            self.session.abandon()
            self._transport.abort()
            return
        if wanted := self._host.options.client_name:
            certificate = self._transport.get_extra_info("peercert") or {}
            names = [name.encode() for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
            self.forbidden = not is_for(names, wanted)
        self._transport.set_write_buffer_limits(_MOST_UNWRITTEN)
        if self._maximum_age:
            self._timer = self._loop.call_later(self._maximum_age, self._retire)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The calls that it has brought are decided all the same."""
        self._gone = True
        self.session.abandon()
        if self._timer is not None:
            self._timer.cancel()
        self._host.lost(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._gone:
            self.session.feed(data)

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Who does not read is not read from, and answers wait in the session, one a stream."""
        self._paused = True
        self._stuck_since = self._loop.time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._paused = False
        if not self._gone:
            self._transport.resume_reading()
            self.flush()

    # What the server calls.

    def flush(self) -> None:
        """Write what there is to write, all at once."""
        if self._gone or self._paused:
            return
        if data := self.session.drain():
            self._transport.write(data)
        if self.session.closed:
            self._gone = True
            self._transport.close()

    def announce(self) -> None:
        """Ask the peer to go elsewhere with what it has not sent yet."""
        self.session.announce_goaway()

    def leave(self) -> None:
        """Take no more calls, and close when those in hand are answered."""
        self.session.goaway()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def look(self, now: float) -> None:
        """Called every second, with the loop's time: cut off who keeps us waiting."""
        session = self.session
        session.relax()
        if session.streams:
            self._busy_at = now
        if self._gone:  # and yet here: what is left to write is not read
            if now - self._stuck_since > PATIENCE:
                self.abort()
            return
        if not self._paused and (not session.unread or session.sent != self._sent):
            self._stuck_since = now
        self._sent = session.sent
        if now - self._stuck_since > PATIENCE or (not session.opened and now - self._made_at > PATIENCE):
            self.abort()
        elif now - self._busy_at > _MOST_IDLE:
            self.leave()

    # What the above is made of.

    def _retire(self) -> None:
        """The connection has reached its age."""
        self.announce()
        self._timer = self._loop.call_later(NOTICE, self._retire_for_good)

    def _retire_for_good(self) -> None:
        grace = self._host.options.max_connection_age_grace
        self._timer = self._loop.call_later(grace, self.abort) if grace else None
        self.leave()
