"""A control plane: where it is, who we are to it, and how it is trusted."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a control plane. The files are read at each connect, so that renewed certificates are in use from the next one on.

    `name` is what its certificate must be for, and what it is asked for. Without `ca`, those that the system trusts are.
    """

    name: str
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """What the files have now. Raises OSError, with the file in its message."""
        try:
            context = ssl.create_default_context(cadata=_text(self.ca) if self.ca else None)
        except ssl.SSLError:
            raise OSError(f"{self.ca} contains no certificate: use a file in PEM format") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Since Python 3.13 a part of the default; CAs that gateways make for themselves need not be so exact.
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
    """One control plane, called `name` in the log, in metrics and in problems; at `host`:`port`, or at the socket `path`."""

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
        """What the server is asked for by."""
        if self.tls is not None:
            return self.tls.name
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.host else "localhost"


def _text(path: str) -> str:
    try:
        return Path(path).read_text("ascii", errors="replace")
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from None
