"""One HTTP port."""

from __future__ import annotations

from ..listening.addresses import Address
from ..listening.certificates import Certificates
from .connections import Connections
from .messages import Handler

_BACKLOG = 1_024
"""Connections waiting to be accepted."""

MOST_CONNECTIONS = 1_000
"""The default limit of connections."""


class HttpPort:
    """A handler of requests on one address. Port 0 takes a free one. Errors call the port `what`.

    With `certificates` it uses TLS. `most` bounds its connections.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        what: str = "HTTP",
        certificates: Certificates | None = None,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        self._handler = handler
        self._certificates = certificates
        self._listens = Address(host.strip("[]"), port)
        self._what = what
        self._most = most
        self._connections: Connections | None = None
        self.address = str(self._listens)
        """host:port or [host]:port; after `start`, with the port in use."""

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._connections is not None

    async def start(self, address: str = "") -> None:
        """Open the port, at `address` instead if one is given. Raises StartError if that fails."""
        if address:
            self._listens = Address.of(address)
        listening = self._listens.listen(self._what, _BACKLOG)
        self.address = str(self._listens._replace(port=listening.getsockname()[1]))
        tls = self._certificates.server_context() if self._certificates is not None else None
        self._connections = Connections(self._handler, self._most, self._what, tls)
        self._connections.listen(listening)

    async def stop(self, grace: float) -> None:
        """Accept no more requests, and cancel those in flight after `grace` seconds.

        Does nothing before `start`.
        """
        connections, self._connections = self._connections, None
        if connections is None:
            return
        connections.refuse()
        await connections.finish(grace)
