"""How a gRPC server is set up, whichever transport it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..tls import Certificates


class Requested(Protocol):
    """Told of every call that is answered."""

    def __call__(self, method: str, seconds: float, calls: int = 1) -> None:
        """So many calls of a method took so many seconds each."""
        ...


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """How the server is set up. Ages are seconds."""

    address: str = "127.0.0.1:0"
    """host:port, or unix:path"""
    max_connection_age: float = 86_400.0
    max_connection_age_grace: float = 3_600.0
    max_message_bytes: int = 4_194_304
    max_concurrent_calls: int = 10_000
    max_connections: int = 10_000
    """One more is closed as soon as it is there."""
    certificates: Certificates | None = None
    """What to serve TLS with; without, connections are plain."""
    client_name: str = ""
    """The DNS name that a caller's certificate must have; empty: any will do that `certificates` accepts."""
