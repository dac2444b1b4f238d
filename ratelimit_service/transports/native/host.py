"""The server, as its connections know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..options import GrpcOptions
    from ._http2 import Turn
    from .connection import Connection
    from .peers import Peers


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

    @property
    def buffer(self) -> memoryview:
        """What the event loop reads into: of all connections, because only one is read from at a time."""
        ...

    @property
    def peers(self) -> Peers:
        """All connections, this one included."""
        ...

    def made(self, connection: Connection) -> bool:
        """A connection is there; return False where there are too many, or none is taken any more."""
        ...

    def lost(self, connection: Connection) -> None:
        """A connection has gone."""
        ...
