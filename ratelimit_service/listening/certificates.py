"""Server certificates in files: read at the start, and again when the files change.

Each new connection checks by two or three calls of `stat` whether the files have changed. So the next
connection uses a renewed certificate, even if Kubernetes swaps a directory in the path; open connections go
on. TLS sessions end when the files change.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from ..core.errors import StartError
from ..runtime.watched_file import State, state_or_missing

_BETWEEN_LINES = 60.0
"""Seconds between two log lines about clients that are refused for the same reason."""


class Unusable(Exception):
    """The files cannot be used. The message is one line with the file and the reason."""


class Material(NamedTuple):
    """The content of the files, in PEM: a certificate with its chain, its key, and the CAs of clients (empty:
    none).

    `context` is the same for Python's ssl, with TLS 1.2 as the lowest version. If there are CAs of clients,
    it requires a certificate from every client.
    """

    certificate: bytes
    key: bytes
    clients: bytes
    context: ssl.SSLContext


class Certificates:
    """A certificate and its key in files, and optionally the CAs of clients.

    Errors and the log call the port `what` ("gRPC"). Thread-safe. Raises StartError if the files cannot be
    used at the start; later, the previous certificate stays in use, with one log line for each state of the
    files. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        what: str,
        certificate: str,
        key: str,
        clients: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._clock = clock
        self._refused: dict[str, _Refused] = {}
        self._certificate, self._key = Path(certificate), Path(key)
        self._clients = Path(clients) if clients else None
        self._log = structlog.get_logger("ratelimit_service.tls")
        self._lock = threading.Lock()
        self._seen = self._identity()
        try:
            self._material = self._read()
        except Unusable as error:
            raise StartError(f"{what} cannot be served with TLS: {error}") from None

    @property
    def material(self) -> Material:
        """The last content that can be used."""
        return self._material

    def renewed(self) -> bool:
        """Check the files, and return whether `material` has changed."""
        with self._lock:
            seen = self._identity()
            if seen == self._seen:
                return False
            self._seen = seen
            try:
                material = self._read()
            except Unusable as error:
                self._log.error(f"the previous certificate stays in use: {error}", port=self._what)
                return False
            if material[:3] == self._material[:3]:
                return False
            self._material = material
            self._log.info("certificate renewed", port=self._what, certificate=str(self._certificate))
            return True

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        """Return a context that gives each new connection the certificate in the files at that moment.

        `protocols` are the server's protocols for ALPN, such as "h2".
        """

        def newest() -> ssl.SSLContext:
            self.renewed()
            context = self._material.context
            if protocols:
                context.set_alpn_protocols(protocols)
            return context

        return _Newest(newest)

    def refused(self, reason: str) -> None:
        """Log that a client was refused for its certificate, once a minute for each reason."""
        now = self._clock()
        before = self._refused.get(reason)
        if before is not None and now - before.logged < _BETWEEN_LINES:
            self._refused[reason] = before._replace(since=before.since + 1)
            return
        times = 1 if before is None else before.since + 1
        self._refused[reason] = _Refused(now, 0)
        self._log.warning("a client's certificate was refused", port=self._what, reason=reason, times=times)

    def _identity(self) -> list[State]:
        """Return what changes when a file or a link in its path changes."""
        return [state_or_missing(path) for path in (self._certificate, self._key, self._clients) if path]

    def _read(self) -> Material:
        certificate = _pem(self._certificate, b"CERTIFICATE", "certificate")
        key = _pem(self._key, b"PRIVATE KEY", "private key")
        if b"ENCRYPTED" in key:
            raise Unusable(f"the key in {self._key} is encrypted: use a key without a passphrase")
        context = _context(self._certificate, self._key, self.refused)
        clients = b""
        if self._clients is not None:
            clients = _pem(self._clients, b"CERTIFICATE", "certificate")
            _verify_clients(context, self._clients)
        if self._identity() != self._seen:
            # Such as the old certificate and the new key. The next connection reads them again.
            raise Unusable(f"{self._certificate} or its key was written while they were read")
        return Material(certificate, key, clients, context)


class _Refused(NamedTuple):
    """The last log line for a reason: its time, and the number of clients refused since."""

    logged: float
    since: int


class _Newest(ssl.SSLContext):
    """Passes each new connection to the context of the current files.

    Each state of the files has its own context. A TLS session belongs to a context, and a client that resumes
    one shows no certificate: with a single context, clients of a replaced CA would be served for as long as
    they resume sessions.
    """

    _newest: Callable[[], ssl.SSLContext]

    def __new__(cls, newest: Callable[[], ssl.SSLContext]) -> Self:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        context._newest = newest
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """See ssl.SSLContext; asyncio and uvloop call it for each connection."""
        return self._newest().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class _Accepted(ssl.SSLObject):
    """The server's end of a connection; reports a client that is refused for its certificate to its
    context.
    """

    def do_handshake(self) -> None:
        """See ssl.SSLObject."""
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            context = self.context
            if isinstance(context, _Context) and (reason := _refusal(error)):
                context.refused(reason)
            raise


class _Context(ssl.SSLContext):
    """A context that passes the reasons of refused client certificates to `refused`."""

    sslobject_class = _Accepted
    refused: Callable[[str], None]


def _refusal(error: ssl.SSLError) -> str:
    """Return why a client's certificate is refused; "" for other errors."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return "there is none" if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE" else ""


def is_for(names: Iterable[bytes], wanted: str) -> bool:
    """Return whether one of these DNS names matches `wanted`; "*.mesh" matches one label before ".mesh"."""
    host = wanted.lower()
    _, dot, parent = host.partition(".")
    good = {host, f"*.{parent}"} if dot and parent else {host}
    return any(name.decode("ascii", "replace").lower() in good for name in names)


def _pem(path: Path, kind: bytes, noun: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror or error}") from None
    if not (b"-----BEGIN " in data and kind + b"-----" in data):
        raise Unusable(f"{path} contains no {noun}: use a file in PEM format")
    return data


def _context(certificate: Path, key: Path, refused: Callable[[str], None]) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.refused = refused
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # which costs a client nothing and the service a handshake
    try:
        # Without the argument, OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # includes ssl.SSLError
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise Unusable(f"the key in {key} does not belong to the certificate in {certificate}") from None
        raise Unusable(f"{certificate} and {key} cannot be used: {error}") from None
    return context


def _verify_clients(context: ssl.SSLContext, clients: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    # Trust every CA in the file, also an intermediate CA without its root, as Go and grpc do.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # A resumed session shows no certificate. TLS 1.3 would renew it without end; sessions of TLS 1.2 end
    # after two hours.
    context.num_tickets = 0
    try:
        context.load_verify_locations(clients)
    except OSError as error:
        raise Unusable(f"{clients} cannot be used: {error}") from None
