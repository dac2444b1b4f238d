"""TLS of one connection of the native transport, without a socket.

Python's `ssl` does it in memory, and not the event loop's TLS, for three reasons: a connection counts from its first byte and not
from the end of its handshake; a peer that hangs up leaves nothing behind; and the event loop's buffers, which are up to 256 KiB
for each connection, would be ours to answer for.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

_LARGEST_PART = 16_384


class Tls:
    """Plain bytes on one side, enciphered ones on the other. Everything may raise ssl.SSLError: the peer breaks TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self.ready = False
        """Whether the handshake is over."""

    def received(self, data: bytes) -> None:
        """Take enciphered bytes."""
        self._in.write(data)

    def shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is over."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            self.ready = True
        return self.ready

    def read(self) -> bytes:
        """Some plain bytes; empty where there are none."""
        try:
            return self._object.read(_LARGEST_PART)
        except ssl.SSLWantReadError:
            return b""

    def encipher(self, data: bytes) -> bytes:
        """Plain bytes, enciphered. In parts, because the memory that OpenSSL takes for the largest of them is not freed."""
        parts = []
        for at in range(0, len(data), _LARGEST_PART):
            self._object.write(data[at : at + _LARGEST_PART])
            parts.append(self._out.read())
        return b"".join(parts)

    def close(self) -> None:
        """Say goodbye to the peer, without waiting for its answer."""
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()

    def to_send(self) -> bytes:
        """The enciphered bytes that are to be sent now; empty where there are none."""
        return self._out.read()

    @property
    def dns_names(self) -> list[bytes]:
        """The DNS names in the certificate of the peer; none where it has shown none."""
        certificate: dict[str, Any] = self._object.getpeercert() or {}
        return [name.encode() for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
