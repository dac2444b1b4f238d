"""The life of a connection of the native transport: its age, its idle time, and its graceful end.

In a graceful end no call is lost: the peer is asked to open no more streams, those that it opens meanwhile
are served, and then a GOAWAY names the last one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._http2 import Session
    from .connection import Connection

NOTICE = 0.1
"""Seconds between asking a peer to open no more streams and refusing new ones; streams in flight arrive
meanwhile."""

_MOST_IDLE = 3_600.0
"""Seconds without a stream after which a connection ends; the peer may reconnect."""

SILENT, IDLE = 2.0, 10.0
"""Seconds without a call after which a connection may make room for others: if it never had a stream, and if
it had.
"""

LAST_CALLS = 10.0
"""Seconds for the calls in flight of a connection that makes room."""


class Lifetime:
    """The life of a connection, which ends gracefully after `most` seconds; 0 is no limit.

    `grace` is what its calls in flight have after that; 0 is no limit.
    """

    __slots__ = (
        "_connection",
        "_grace",
        "_last_stream",
        "_loop",
        "_most",
        "_timer",
        "began_at",
        "busy_at",
        "called_at",
        "ends",
    )

    def __init__(self, connection: Connection, most: float, grace: float) -> None:
        self._connection = connection
        self._most = most
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._last_stream = 0
        self.began_at = self.busy_at = self.called_at = self._loop.time()
        """When it was opened, when it was last seen to serve a stream, and when a call; a health watch is
        none.
        """
        self.ends = False
        """Whether it ends gracefully."""

    def begin(self) -> None:
        """Begin to count its age."""
        if self._most:
            self._timer = self._loop.call_later(self._most, self.retire)

    def end(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self, session: Session, now: float) -> None:
        """Note whether it has served streams since the last time, and retire it if it has been idle for too
        long.
        """
        last = session.last_stream
        if session.busy or last != self._last_stream:
            self._last_stream = last
            self.busy_at = self.called_at = now
        elif session.streams:
            self.busy_at = now
        elif now - self.busy_at > _MOST_IDLE and not self.ends:
            self.retire()

    @property
    def is_silent(self) -> bool:
        """Whether it has never had a stream."""
        return not self._last_stream

    def may_make_room(self, session: Session | None, now: float) -> bool:
        """Return whether it has had no calls for so long that it may make room for others."""
        if self.ends:
            return False
        if session is None or not session.last_stream:
            return now - self.began_at > SILENT
        return not session.busy and session.last_stream == self._last_stream and now - self.called_at > IDLE

    def make_room(self) -> None:
        """End the connection gracefully, because others need its place."""
        self._grace = LAST_CALLS
        self.retire()

    def retire(self) -> None:
        """End the connection gracefully."""
        self.end()
        self.ends = True
        self._connection.announce()
        self._timer = self._loop.call_later(NOTICE, self._leave)

    def _leave(self) -> None:
        self._timer = self._loop.call_later(self._grace, self._connection.abort) if self._grace else None
        self._connection.leave()
