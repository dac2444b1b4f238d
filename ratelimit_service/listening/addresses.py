"""Addresses to listen on, as Go reads them, and paths of Unix sockets, each owned by one process."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import StartError
from ..runtime.locks import is_at, locked

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""The errors for "::" on a system without IPv6."""


class Address(NamedTuple):
    """A host and a port. Its text is that of Go's net.JoinHostPort.

    The unspecified hosts ("", 0.0.0.0 and ::) mean every address of both families, as in Go. A name means its
    first IPv4 address, or its first IPv6 address if it has no other.
    """

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address:
        """Return the address whose text is `text`."""
        host, _, port = text.rpartition(":")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_every(self) -> bool:
        """Whether the host means every address of the machine."""
        try:
            return not self.host or ipaddress.ip_address(self.host).is_unspecified
        except ValueError:  # a name
            return False

    def resolved(self) -> tuple[socket.AddressFamily, Any]:
        """Return the family and the address for a socket. Raises OSError for an unknown host."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError:  # the codec for names beyond ASCII refuses it
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        family, *_, place = min(found, key=lambda each: each[0] != socket.AF_INET)
        return family, place

    def listen(self, what: str, backlog: int | None = None, *, shared: bool = False) -> socket.socket:
        """Return a listening socket. Raises StartError, which names `what` ("gRPC").

        No other process shares its port, unless it is `shared` with processes that `reserve` or share it as
        well.
        """
        try:
            if not self.is_every:
                family, place = self.resolved()
                return socket.create_server(place, family=family, backlog=backlog, reuse_port=shared)
            return self._listen_everywhere(backlog, shared)
        except OSError as error:
            raise StartError(f"cannot listen for {what} on {self}: {why(error, what)}") from None

    def _listen_everywhere(self, backlog: int | None, shared: bool) -> socket.socket:
        place = ("", self.port)
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(
                    place, family=socket.AF_INET6, backlog=backlog, reuse_port=shared, dualstack_ipv6=True
                )
            except OSError as error:
                if error.errno not in _NO_IPV6:
                    raise
        return socket.create_server(place, backlog=backlog, reuse_port=shared)

    def reserve(self, what: str) -> socket.socket:
        """Return a socket that is bound, and does not listen, so that other processes can share its port.

        Raises StartError if another process has the port, whether it would share it or not.
        """
        with self.listen(what) as alone:
            family, (host, port, *rest) = alone.family, alone.getsockname()
            both = family == socket.AF_INET6 and not alone.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if both:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind((host, port, *rest))
            # On Linux, a socket with this option that does not listen keeps nobody with the same option away.
            # It is only needed to bind a port whose previous connections are in TIME_WAIT.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            bound.close()
            raise StartError(f"cannot listen for {what} on {self}: {why(error, what)}") from None
        return bound


PLAINTEXT = "plaintext gRPC"
"""The name of the second gRPC port in errors."""

_CHOSEN_BY = {
    "gRPC": "GRPC_PORT",
    PLAINTEXT: "GRPC_PLAINTEXT_PORT",
    "HTTP": "PORT",
    "debug HTTP": "DEBUG_PORT",
    "metrics": "PROMETHEUS_ADDR",
}
"""The setting of each port of the service, by its name in errors."""


def why(error: OSError, what: str = "") -> str:
    """Return the reason of an error of listening, without the address that Python's text repeats."""
    if error.errno == errno.EADDRINUSE:
        return taken(what)
    # An unknown name and a path that is too long have no errno of the system.
    known = error.errno if not isinstance(error, socket.gaierror) else None
    return os.strerror(known) if known else error.strerror or str(error)


def taken(what: str) -> str:
    """Return the reason if a port is in use, with the setting that chooses another one for `what`, if there
    is one.
    """
    setting = _CHOSEN_BY.get(what)
    return f"is the port taken? Choose another with {setting}" if setting else "is the port taken?"


class SocketPath:
    """The path of a Unix socket, owned by the process that has locked the file beside it (PATH.lock).

    A socket is bound to a temporary name in the same directory (`claim`) and moved to the path once it
    listens (`publish`). So the path always leads to a socket that answers, even while the socket of a killed
    process is replaced.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._bound = self._path.with_name(f".{secrets.token_hex(4)}")
        self._lock = -1
        self._ours: os.stat_result | None = None

    def claim(self) -> str:
        """Return the temporary name to bind. Raises StartError if another process owns the path."""
        try:
            self._lock = locked(self._lock_path)
            if self._taken():
                raise FileExistsError
        except (BlockingIOError, FileExistsError):
            self.release()
            raise StartError(
                f"cannot listen for gRPC on unix:{self._path}: another process has this path: give each one "
                "of its own"
            ) from None
        except OSError as error:
            raise StartError(f"cannot listen for gRPC on unix:{self._path}: {why(error)}") from None
        return str(self._bound)

    def publish(self) -> None:
        """Move the socket to the path, now that it listens."""
        self._ours = self._bound.lstat()
        self._bound.replace(self._path)

    def release(self) -> None:
        """Remove the lock, and the socket unless the path leads to another one by now."""
        self._bound.unlink(missing_ok=True)
        if self._ours is not None and is_at(self._ours, self._path):
            self._path.unlink(missing_ok=True)
        self._ours = None
        if self._lock >= 0:
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.lock")

    def _taken(self) -> bool:
        """Return whether the path holds anything but a socket without a listener."""
        if not self._path.is_socket():
            return os.path.lexists(self._path)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            return probe.connect_ex(str(self._path)) != errno.ECONNREFUSED
