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

_READS = 2
"""Reads of one connection in one turn of the event loop."""

_RECORDS_OF_A_STREAM = 8
"""Records that take as long to decrypt as a call takes to decide."""

_OVERHEAD = 29
"""Bytes of a record beside its data, at most."""

_BYTES_OF_A_STREAM = 36
"""Bytes without data that take as long as a call: a new key, which has 27, costs three quarters of a call."""


class Tls:
    """Decrypts and encrypts. Every method raises ssl.SSLError if the peer breaks the protocol."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self.ready = False
        """Whether the handshake is complete."""
        self.ended = False
        """Whether the peer has sent close_notify: no input comes after what `read` has returned."""
        self.work = 0
        """The number of streams (Turn.opened) that would take as long as the last `read`."""
        self._idle = 0
        """The most bytes that have brought no data, beside one incomplete record."""
        self._moved = 0
        """The bytes received, without those of the records that have brought data."""
        self._turn = self._reads = 0
        """The last turn with a read, and the reads in that turn."""

    def received(self, data: bytes) -> None:
        """Take encrypted bytes from the peer."""
        self._in.write(data)
        self._moved += len(data)

    def shake_hands(self) -> bool:
        """Continue the handshake; return whether it is complete."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            self.ready = True
        return self.ready

    @property
    def pending(self) -> int:
        """The bytes that wait for `read`."""
        return self._in.pending

    def read(self) -> bytes:
        """Return all decrypted bytes; empty if there are none."""
        records = []
        try:
            while data := self._object.read(_RECORD):
                records.append(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        decrypted = b"".join(records)
        self._moved -= len(decrypted) + _OVERHEAD * len(records)
        idle = max(self._idle, self._moved - _RECORD - _OVERHEAD)
        self.work = len(records) // _RECORDS_OF_A_STREAM + (idle - self._idle) // _BYTES_OF_A_STREAM
        self._idle = idle
        return decrypted

    def has_had_its_share(self, turn: int) -> bool:
        """Count a read in the turn of this number; return whether there should be no more of them."""
        if self._turn != turn:
            self._turn, self._reads = turn, 0
        self._reads += 1
        return self._reads >= _READS

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
