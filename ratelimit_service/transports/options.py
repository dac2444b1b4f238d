"""The options of a gRPC server, whichever transport it uses."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import Forbidden
from ..listening.certificates import Certificates


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """The options of a gRPC server. Ages and times are in seconds."""

    address: str = "127.0.0.1:0"
    """host:port, or unix:path"""
    max_connection_age: float = 86_400.0
    max_connection_age_grace: float = 3_600.0
    max_message_bytes: int = 4_194_304
    max_concurrent_calls: int = 10_000
    max_connections: int = 10_000
    """Any further connection is closed at once."""
    max_connection_bytes: int = 8_388_608
    """The bytes kept for one connection (`_http2.Budget`); only for the native transport."""
    max_bytes: int = 67_108_864
    """The bytes kept for all connections together (`_http2.Budget`); only for the native transport."""
    request_timeout: float = 10.0
    """The time for a request to arrive in full; only for the native transport."""
    certificates: Certificates | None = None
    """The certificates for TLS; None for plaintext connections."""
    client_name: str = ""
    """The DNS name that a client's certificate must have; empty if any certificate will do."""
    shared: bool = False
    """Whether other processes listen on the same ports (SO_REUSEPORT)."""
    listening: int = -1
    """The descriptor of a listening socket at the path, which the parent process owns; only for the native
    transport.
    """
    plaintext: str = ""
    """host:port of a second port without TLS, whose clients need no certificate; empty if there is none."""

    def forbidden(self) -> Forbidden:
        """Return the error for a client whose certificate lacks `client_name`, and log that."""
        lacks = f"does not have the DNS name {self.client_name}"
        if self.certificates is not None:
            self.certificates.refused(f"it {lacks}")
        return Forbidden(f"the client's certificate {lacks}")
