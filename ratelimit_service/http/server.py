"""One HTTP port: an application, served by uvicorn in this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn
from starlette.types import ASGIApp

from ..listening import Address
from ..tls import Certificates

_BETWEEN_LOOKS = 0.005
"""Seconds between two looks, at the stop, at whether the requests in hand are answered."""

_MOST_CONNECTIONS = 1_000
"""At once; one more is answered 503. These ports are for people, probes and scrapers, not for the traffic."""

_LARGEST_HEAD = 16_384
"""Bytes of a request's line and headers; a larger one is answered 400. Each connection may hold as much."""


class HttpPort:
    """An application on one address. `port` 0 takes a free one; `what` is what errors call it.

    With `certificates` it is served with TLS.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        what: str = "HTTP",
        certificates: Certificates | None = None,
    ) -> None:
        self._certificates = certificates
        self._listens = Address(host.strip("[]"), port)
        self._what = what
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            h11_max_incomplete_event_size=_LARGEST_HEAD,
        )
        self._server = uvicorn.Server(self._config)
        self._socket: socket.socket | None = None
        self.address = str(self._listens)
        """Where it listens, once started: host:port, or [host]:port."""

    async def start(self) -> None:
        """Open the port. Raises StartError where it cannot be had."""
        self._socket = self._listens.listen(self._what)
        self.address = str(self._listens._replace(port=self._socket.getsockname()[1]))
        # Not Server.serve(): it takes over the signals of the process, which app.py handles, and wakes up ten
        # times a second. What it does besides is these three lines.
        self._config.load()
        if self._certificates is not None:
            self._config.ssl = self._certificates.server_context()
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=[self._socket])

    async def stop(self, grace: float) -> None:
        """Take no more requests, and give those in hand `grace` seconds. Does nothing before `start`."""
        if self._socket is None:
            return
        # Not Server.shutdown(): it sleeps for 0.1 s before it looks whether there is anything to wait for.
        for server in self._server.servers:
            server.close()
        self._socket.close()
        self._socket = None
        state = self._server.server_state
        for connection in tuple(state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while state.connections or state.tasks:  # noqa: ASYNC110  # uvicorn has no event for it
                    await asyncio.sleep(_BETWEEN_LOOKS)
        for task in state.tasks:
            task.cancel()
