"""How a gRPC server is set up, whichever transport it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..core.errors import Forbidden
from ..listening.certificates import Certificates


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
    max_connection_bytes: int = 8_388_608
    """What one connection may keep; only the native transport knows. See `_http2.Budget` for this and the next one."""
    max_bytes: int = 134_217_728
    """What all connections together may keep."""
    request_timeout: float = 10.0
    """How long a request may take to arrive in full; only the native transport knows."""
    certificates: Certificates | None = None
    """What to serve TLS with; without, connections are plain."""
    client_name: str = ""
    """The DNS name that a caller's certificate must have; empty: any will do that `certificates` accepts."""
    plaintext: str = ""
    """host:port of a second port without TLS, whose callers need no certificate; empty: there is none."""

    def forbidden(self) -> Forbidden:
        """The answer to a caller whose certificate does not have `client_name`; the log has it as a refused certificate."""
        lacks = f"does not have the DNS name {self.client_name}"
        if self.certificates is not None:
            self.certificates.refused(f"it {lacks}")
        return Forbidden(f"the client's certificate {lacks}")
