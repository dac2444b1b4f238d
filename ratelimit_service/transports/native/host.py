"""The interface between a connection and the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..options import GrpcOptions
    from ._http2 import Turn
    from .connection import Connection
    from .peers import Peers


class Host(Protocol):
    """The server of a connection."""

    @property
    def options(self) -> GrpcOptions:
        """The options of the server."""
        ...

    @property
    def traced(self) -> bool:
        """Whether calls have the trace context of their headers."""
        ...

    @property
    def turn(self) -> Turn:
        """The turn of the event loop, which all connections share."""
        ...

    @property
    def buffer(self) -> memoryview:
        """The buffer that the event loop reads into.

        All connections share it, because one is read at a time.
        """
        ...

    @property
    def peers(self) -> Peers:
        """All connections of the server."""
        ...

    def made(self, connection: Connection) -> bool:
        """Accept a new connection; return False if there are too many, or the server stops."""
        ...

    def lost(self, connection: Connection) -> None:
        """Forget a closed connection."""
        ...
