"""Accepts connections, a few in each turn of the event loop.

uvloop's servers accept as long as a connection is waiting, so a peer that connects as fast as it can would
stop all other work.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

from .connection import Connection

_ACCEPTED_AT_ONCE = 16
"""Connections that one port accepts in a turn of the event loop."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE = 0.5
"""Seconds until the next attempt after the system had no room for a connection."""


class Accepting:
    """Accepts the connections of a listening socket, which it owns. `make` returns the protocol of each."""

    def __init__(self, listening: socket.socket, make: Callable[[], Connection]) -> None:
        self._listening = listening
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("ratelimit_service.grpc")

    def start(self, backlog: int) -> None:
        """Accept connections from now on."""
        self._listening.setblocking(False)
        self._listening.listen(backlog)
        self._loop.add_reader(self._listening, self._accept)

    async def stop(self) -> None:
        """Accept no more connections, and close the socket."""
        if self._listening.fileno() == -1:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                opened, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._have_no_room(error)
                    return
                continue  # the peer has already closed it
            opened.setblocking(False)
            task = self._loop.create_task(self._open(opened))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, opened: socket.socket) -> None:
        try:
            if opened.family != socket.AF_UNIX:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make, opened)
        except OSError:  # the peer has already closed it
            opened.close()

    def _have_no_room(self, error: OSError) -> None:
        """Pause, because the event loop would call `_accept` without end while connections wait."""
        self._log.error("a connection cannot be accepted", error=error.strerror)
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(_PAUSE, self._loop.add_reader, self._listening, self._accept)
