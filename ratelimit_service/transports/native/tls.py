"""TLS of one connection of the native transport, without a socket.

This uses Python's `ssl` in memory instead of the event loop's TLS, for three reasons: a connection counts
from its first byte and not only after its handshake, nothing is left of a peer that hangs up, and the event
loop would buffer up to 256 KiB for each connection, which GRPC_MAX_BYTES would not count.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

_RECORD = 16_384
"""Bytes of the largest record of TLS."""


class Tls:
    """Decrypts and encrypts. Every method raises ssl.SSLError if the peer breaks the protocol."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self.ready = False
        """Whether the handshake is complete."""

    def received(self, data: bytes) -> None:
        """Take encrypted bytes from the peer."""
        self._in.write(data)

    def shake_hands(self) -> bool:
        """Continue the handshake; return whether it is complete."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            self.ready = True
        return self.ready

    def read(self) -> bytes:
        """Return some decrypted bytes; empty if there are none."""
        try:
            return self._object.read(_RECORD)
        except ssl.SSLWantReadError:
            return b""

    def encrypt(self, data: bytes) -> bytes:
        """Return encrypted bytes.

        One record at a time: OpenSSL never frees the memory of its largest write.
        """
        records = []
        for at in range(0, len(data), _RECORD):
            self._object.write(data[at : at + _RECORD])
            records.append(self._out.read())
        return b"".join(records)

    def close(self) -> None:
        """Send close_notify, without waiting for that of the peer."""
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()

    def to_send(self) -> bytes:
        """Return the encrypted bytes to send now; empty if there are none."""
        return self._out.read()

    @property
    def dns_names(self) -> list[bytes]:
        """The DNS names in the certificate of the peer; empty if it has sent no certificate."""
        certificate: dict[str, Any] = self._object.getpeercert() or {}
        return [name.encode() for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
