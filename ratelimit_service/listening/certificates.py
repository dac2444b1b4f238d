"""Certificates in files, for whatever serves: read at the start, and again when the files have changed.

Every new connection looks whether the files are still those that were read, which takes two or three calls of `stat`. So
a certificate that was renewed is in use from the next connection on, also where Kubernetes swaps the directory that a
path leads through; connections that are there go on undisturbed. Sessions of TLS do not outlast a change of the files.
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

_BETWEEN_LINES = 60.0
"""Seconds between two lines about clients that are refused for one reason."""


class Unusable(Exception):
    """The files cannot be served with; the message names one of them and says why, in one line."""


class Material(NamedTuple):
    """What the files held, in PEM: a certificate with its chain, its key, and who signs for clients (empty: nobody).

    `context` is the same for Python's own TLS: 1.2 and up, and a certificate from every client where `clients` says
    who signs them.
    """

    certificate: bytes
    key: bytes
    clients: bytes
    context: ssl.SSLContext


class Certificates:
    """A certificate and its key in files, and maybe the CA that clients must have theirs from.

    `what` is what errors and the log call that which is served: "gRPC". May be asked from several threads. Raises StartError
    where the files cannot be used at the start; later, what was read before stays in use, and the log says so once for each
    state of the files. `clock` has seconds that go forward only.
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
        """What was read last and can be used."""
        return self._material

    def renewed(self) -> bool:
        """Look at the files; whether `material` is another one since."""
        with self._lock:
            seen = self._identity()
            if seen == self._seen:
                return False
            self._seen = seen
            try:
                material = self._read()
            except Unusable as error:
                self._log.error(f"the certificate before stays in use: {error}", port=self._what)
                return False
            if material[:3] == self._material[:3]:
                return False
            self._material = material
            self._log.info("certificate renewed", port=self._what, certificate=str(self._certificate))
            return True

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        """For a server whose every connection has the certificate that is in the files when it is made.

        `protocols` are those that it agrees on with its clients (ALPN), "h2" for example.
        """

        def newest() -> ssl.SSLContext:
            self.renewed()
            context = self._material.context
            if protocols:
                context.set_alpn_protocols(protocols)
            return context

        return _Newest(newest)

    def refused(self, reason: str) -> None:
        """A client was refused because of its certificate: log it, once a minute for each reason."""
        now = self._clock()
        before = self._refused.get(reason)
        if before is not None and now - before.logged < _BETWEEN_LINES:
            self._refused[reason] = before._replace(since=before.since + 1)
            return
        times = 1 if before is None else before.since + 1
        self._refused[reason] = _Refused(now, 0)
        self._log.warning("a client's certificate was refused", port=self._what, reason=reason, times=times)

    def _identity(self) -> list[tuple[int, ...]]:
        """Changes whenever one of the files does, or a link on the way to it. A file that is not there has none."""
        identity: list[tuple[int, ...]] = []
        for path in filter(None, (self._certificate, self._key, self._clients)):
            try:
                stat = path.stat()
            except OSError:
                identity.append(())
            else:
                identity.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return identity

    def _read(self) -> Material:
        certificate = _pem(self._certificate, b"CERTIFICATE", "certificate")
        key = _pem(self._key, b"PRIVATE KEY", "private key")
        if b"ENCRYPTED" in key:
            raise Unusable(f"the key in {self._key} is encrypted: give one without a passphrase")
        context = _context(self._certificate, self._key, self.refused)
        clients = b""
        if self._clients is not None:
            clients = _pem(self._clients, b"CERTIFICATE", "certificate")
            _verify_clients(context, self._clients)
        if self._identity() != self._seen:
            # A pair of the old certificate and the new key, for example. The next connection looks again.
            raise Unusable(f"{self._certificate} or what belongs to it was being written while it was read")
        return Material(certificate, key, clients, context)


class _Refused(NamedTuple):
    """When clients were last logged that were refused for a reason, and how many were since."""

    logged: float
    since: int


class _Newest(ssl.SSLContext):
    """Hands each new connection to the context of what is in the files then.

    Each state of the files has a context of its own, because a session belongs to the context in which it began, and a client
    that resumes one is not asked for its certificate again: with a single context, a client of a CA that was replaced would
    be served for as long as it resumed.
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
    """The server's end of a connection, which tells its context of a client that is refused for its certificate."""

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
    """One that tells of clients that are refused for their certificates."""

    sslobject_class = _Accepted
    refused: Callable[[str], None]


def _refusal(error: ssl.SSLError) -> str:
    """Why a client's certificate is refused; "" where the error is about something else."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return "there is none" if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE" else ""


def is_for(names: Iterable[bytes], wanted: str) -> bool:
    """Whether a certificate with these DNS names is one for `wanted`: "*.mesh" stands for one label before ".mesh"."""
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
        raise Unusable(f"{path} has no {noun} in it: give a file in PEM form")
    return data


def _context(certificate: Path, key: Path, refused: Callable[[str], None]) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.refused = refused
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # which costs a client nothing and the service a handshake
    try:
        # Without a passphrase, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # which ssl.SSLError is, too
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise Unusable(f"the key in {key} is not that of the certificate in {certificate}") from None
        raise Unusable(f"{certificate} and {key} cannot be used: {error}") from None
    return context


def _verify_clients(context: ssl.SSLContext, clients: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    # What is in the file is trusted, an intermediate CA without its root too: as Go and grpc have it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # A resumed session shows no certificate, and TLS 1.3 would renew it for ever. Sessions of TLS 1.2 end after two hours.
    context.num_tickets = 0
    try:
        context.load_verify_locations(clients)
    except OSError as error:
        raise Unusable(f"{clients} cannot be used: {error}") from None
