"""One HTTP port: an application, served by uvicorn in this event loop."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp

from ..listening.addresses import Address
from ..listening.certificates import Certificates
from .connections import Connections

_BETWEEN_LOOKS = 0.005
"""Seconds between two looks, at the stop, at whether the requests in hand are answered."""

_BACKLOG = 1_024
"""Connections that wait to be accepted."""

MOST_CONNECTIONS = 1_000
"""At once; one more takes the place of the one that has been silent for the longest time."""


class HttpPort:
    """An application on one address. `port` 0 takes a free one; `what` is what errors call it.

    With `certificates` it is served with TLS. `most` bounds its connections.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        what: str = "HTTP",
        certificates: Certificates | None = None,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        self._app = app
        self._certificates = certificates
        self._listens = Address(host.strip("[]"), port)
        self._what = what
        self._most = most
        self._connections: Connections | None = None
        self.address = str(self._listens)
        """Where it listens, once started: host:port, or [host]:port."""

    async def start(self) -> None:
        """Open the port. Raises StartError where it cannot be had."""
        listening = self._listens.listen(self._what, _BACKLOG)
        self.address = str(self._listens._replace(port=listening.getsockname()[1]))
        tls = self._certificates.server_context() if self._certificates is not None else None
        self._connections = Connections(self._app, self._most, self._what, tls)
        self._connections.listen(listening)

    async def stop(self, grace: float) -> None:
        """Take no more requests, and give those in hand `grace` seconds. Does nothing before `start`."""
        connections, self._connections = self._connections, None
        if connections is None:
            return
        connections.refuse()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while connections.busy:  # noqa: ASYNC110  # uvicorn has no event for it
                    await asyncio.sleep(_BETWEEN_LOOKS)
        connections.abort()
