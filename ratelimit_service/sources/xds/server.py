"""The address of a control plane, the node that identifies this service to it, and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a control plane. The files are read for each connection: a renewal needs no restart.

    The certificate of the control plane must be for `name`, which is also sent as SNI. Without `ca`, the CAs
    of the system are trusted.
    """

    name: str
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Return a context with the present content of the files. Raises OSError that names the file."""
        try:
            context = ssl.create_default_context(cadata=_text(self.ca) if self.ca else None)
        except ssl.SSLError:
            raise OSError(f"{self.ca} contains no certificate: use a file in PEM format") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Part of the default since Python 3.13. The CAs that gateways generate may not pass these checks.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["h2"])
        if self.certificate:
            for path in (self.certificate, self.key):
                _text(path)
            try:
                # Without a passphrase, OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
            except ssl.SSLError as error:
                raise OSError(
                    f"{self.certificate} and {self.key} cannot be used: {error.reason or error}"
                ) from None
        return context


@dataclass(frozen=True, slots=True)
class Server:
    """A control plane at `host`:`port`, or at the Unix socket `path`.

    Logs, metrics and problems call it `name`.
    """

    name: str
    host: str = ""
    port: int = 0
    path: str = ""
    node_id: str = "default"
    node_metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None

    @property
    def authority(self) -> str:
        """Return the `:authority` of a call."""
        if self.tls is not None:
            return self.tls.name
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.host else "localhost"


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii", errors="replace")
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from None
