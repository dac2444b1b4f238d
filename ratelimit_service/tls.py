"""Certificates in files, for whatever serves: read at the start, and again when the files have changed.

Every new connection looks whether the files are still those that were read, which takes two or three calls of `stat`. So
a certificate that was renewed is in use from the next connection on, also where Kubernetes swaps the directory that a
path leads through; connections that are there go on undisturbed.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import structlog

from .core.errors import StartError


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

    `what` is what errors and the log call that which is served: "gRPC". May be asked from several threads. Raises StartError where the files cannot be used at the start; later, what was
    read before stays in use, and the log says so once for each state of the files.
    """

    def __init__(self, what: str, certificate: str, key: str, clients: str = "") -> None:
        self._what = what
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

        def choose(
            connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
        ) -> None:
            self.renewed()
            connection.context = agreeing(self._material.context)

        def agreeing(context: ssl.SSLContext) -> ssl.SSLContext:
            if protocols:
                context.set_alpn_protocols(protocols)
            return context

        context = agreeing(self._material.context)
        context.sni_callback = choose  # called for every handshake, with or without a name
        return context

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
        context = _context(self._certificate, self._key)
        clients = b""
        if self._clients is not None:
            clients = _pem(self._clients, b"CERTIFICATE", "certificate")
            _verify_clients(context, self._clients)
        if self._identity() != self._seen:
            # A pair of the old certificate and the new key, for example. The next connection looks again.
            raise Unusable(f"{self._certificate} or what belongs to it was being written while it was read")
        return Material(certificate, key, clients, context)


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


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
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
    try:
        context.load_verify_locations(clients)
    except OSError as error:
        raise Unusable(f"{clients} cannot be used: {error}") from None
