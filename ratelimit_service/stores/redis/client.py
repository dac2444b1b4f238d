"""Clients of redis-py: for one server, for the primary that sentinels name, and for each server of a Cluster.

Their retries are off: a script call whose reply was lost may have been carried out, and a second one would
count its hits twice. Only layers/settling.py knows what may be sent again.

Errors name hosts and ports, never credentials: a connection reads credentials when it is made, and no repr
shows them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ...core.text import either

Address = tuple[str, int]
"""Host and port."""

_KEEPALIVE = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
"""Seconds of silence before the first probe, seconds between probes, and how many may remain unanswered.

Firewalls and NAT forget a silent connection, some within seconds, and then drop its packets without a reset.
"""


class Tls(NamedTuple):
    """The TLS of connections: paths of PEM files, empty for none, and the check of the server's name."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    check_hostname: bool = True
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """Return a context with the current content of the files.

        Raises ConnectionError, with their names, if they are unusable.
        """
        files = [file for file in (self.ca, self.certificate, self.key) if file]
        try:
            return _context(self, tuple(Path(file).stat().st_mtime_ns for file in files))
        except OSError as error:
            which = error.filename or (either(files) if files else "TLS")
            raise RedisConnectionError(f"{which} cannot be used: {error.strerror or error}") from None


@lru_cache(maxsize=8)
def _context(tls: Tls, changed: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca or None)
    context.check_hostname = tls.check_hostname
    # As in Go, and the same in every version of Python: an intermediate CA in the file is trusted without its
    # root, and certificates of private CAs need not follow RFC 5280 strictly.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key or None)
    return context


class Login(CredentialProvider):
    """A user (empty: the default one) and a password, or a file that contains `password` or `user:password`.

    redis-py reads them for each connection that it makes, so the file may change.
    """

    def __init__(self, username: str = "", password: str = "", file: str = "") -> None:
        self._known = (username, password)
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the arguments of AUTH. Raises ConnectionError if the file is empty or cannot be read."""
        username, password = self._read() if self._file else self._known
        return (username, password) if username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the arguments of AUTH, as `get_credentials` does."""
        return self.get_credentials()

    def __bool__(self) -> bool:
        return bool(self._file or any(self._known))

    def _read(self) -> tuple[str, str]:
        try:
            text = Path(self._file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise RedisConnectionError(f"the password file {self._file} cannot be read: {why}") from None
        if not text:
            raise RedisConnectionError(f"the password file {self._file} is empty")
        username, _, password = text.partition(":") if ":" in text else ("", "", text)
        return username, password


@dataclass(frozen=True)
class Link:
    """How connections are made.

    Times are seconds: `timeout` for a reply, and for a connection of the pool.
    """

    login: Login = field(default_factory=Login)
    database: int = 0
    tls: Tls | None = None
    pool_size: int = 10
    timeout: float = 1.0
    connect_timeout: float = 1.0

    def options(self) -> dict[str, Any]:
        """Return the options of redis-py's pools, without those of TCP."""
        options: dict[str, Any] = {
            "db": self.database,
            "max_connections": self.pool_size,
            "timeout": self.timeout,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.connect_timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # enough for this service, and every server and proxy speaks it
            "driver_info": None,  # no CLIENT SETINFO: twemproxy closes the connection at it
        }
        if self.login:
            options["credential_provider"] = self.login
        if self.tls is not None:
            options["tls"] = self.tls
        return options

    def tcp_options(self) -> dict[str, Any]:
        """Return all options.

        The kernel keeps idle connections alive, and closes those that the network has lost.
        """
        values = {**_KEEPALIVE, "TCP_USER_TIMEOUT": max(1, round(self.timeout * 1000))}
        known = {getattr(socket, name): value for name, value in values.items() if hasattr(socket, name)}
        return {**self.options(), "socket_keepalive": True, "socket_keepalive_options": known}


class TlsConnection(Connection):
    """A connection over TLS, with the certificates that are in the files when it is made."""

    def __init__(self, *, tls: Tls, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {
            **super()._connection_arguments(),
            "ssl": self._tls.context(),
            "server_hostname": self._tls.server_name or self.host,
        }


class _ToPrimary(SentinelManagedConnection):
    """A connection to the primary that the sentinels name when it is made."""


class _ToPrimaryOverTls(SentinelManagedConnection, TlsConnection):
    """A connection over TLS to the primary that the sentinels name when it is made."""


class PrimaryPool(SentinelConnectionPool, aioredis.BlockingConnectionPool):
    """Connections to the primary that sentinels name.

    Callers wait for a free one, as with a single server.
    """

    async def get_master_address(self) -> Address:
        """Return the primary that the sentinels report, and close idle connections to a previous one.

        This uses the command that is meant for clients. redis-py uses SENTINEL MASTERS, which shows the old
        primary until its replicas have been reconfigured.
        """
        sentinels: list[aioredis.Redis] = self.sentinel_manager.sentinels
        last_error = ""
        for sentinel in list(sentinels):
            try:
                reply = await sentinel.execute_command(  # type: ignore[no-untyped-call]
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service_name
                )
            except (RedisError, OSError) as error:
                last_error = f"; {address_of(sentinel)} said: {error}"
                continue
            if reply is None:
                continue
            sentinels.remove(sentinel)
            sentinels.insert(0, sentinel)  # the next query goes to the sentinel that answered
            address = (reply[0].decode(), int(reply[1]))
            if self.master_address != address:
                self.master_address = address
                await self.disconnect(inuse_connections=False)
            return address
        raise RedisConnectionError(f"no sentinel knows a primary of {self.service_name}{last_error}")


def at_address(address: Address, link: Link) -> aioredis.Redis:
    """Return a client of one server."""
    host, port = address
    return _client(TlsConnection if link.tls else Connection, link, host=host, port=port)


def at_socket(path: str, link: Link) -> aioredis.Redis:
    """Return a client of the server at a Unix socket."""
    options = link.options()
    options.pop("tls", None)
    pool = aioredis.BlockingConnectionPool(connection_class=UnixDomainSocketConnection, path=path, **options)
    return aioredis.Redis.from_pool(pool)


def through_sentinels(
    master: str, sentinels: Sequence[Address], link: Link, sentinel_login: Login | None = None
) -> aioredis.Redis:
    """Return a client of the server that the sentinels name as the primary of `master`."""
    to_sentinels = Link(
        login=sentinel_login or Login(),
        tls=link.tls,
        pool_size=2,
        timeout=link.timeout,
        connect_timeout=link.connect_timeout,
    )
    manager = Sentinel([])  # type: ignore[no-untyped-call]
    manager.sentinels = [at_address(address, to_sentinels) for address in sentinels]
    pool = PrimaryPool(  # type: ignore[no-untyped-call]
        master,
        manager,
        connection_class=_ToPrimaryOverTls if link.tls else _ToPrimary,
        **link.tcp_options(),
    )
    return aioredis.Redis.from_pool(pool)


def _client(kind: type[AbstractConnection], link: Link, **place: Any) -> aioredis.Redis:
    return aioredis.Redis.from_pool(
        aioredis.BlockingConnectionPool(connection_class=kind, **place, **link.tcp_options())
    )


class OpenConnection(NamedTuple):
    """A connection ready for commands, and its peer; the address of a Unix socket is its path and 0."""

    stream: asyncio.StreamWriter
    address: Address


async def open_connection(client: aioredis.Redis) -> OpenConnection:
    """Return a connection that the client has opened and logged in, to be driven by wire.py.

    Raises the errors of redis-py. redis-py cannot hand over a connection, so this function, as the only one,
    uses its private attributes.
    """
    connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    reader, stream = connection._reader, connection._writer
    connection._reader = connection._writer = None
    assert reader is not None and stream is not None
    if reader.at_eof() or stream.transport.is_closing():
        stream.close()
        raise RedisConnectionError("Connection closed by server.")
    if isinstance(connection, UnixDomainSocketConnection):
        return OpenConnection(stream, (connection.path, 0))
    return OpenConnection(stream, (connection.host, connection.port))


def patience_of(client: aioredis.Redis) -> float:
    """Return the seconds for which the client waits for a reply (Link.timeout)."""
    return float(client.connection_pool.connection_kwargs["socket_timeout"])


def address_of(client: aioredis.Redis) -> str:
    """Return the address that a client connects to, for messages."""
    pool = client.connection_pool
    if isinstance(pool, PrimaryPool):
        host, port = pool.master_address or (pool.service_name, "?")
        return f"{host}:{port}"
    place = pool.connection_kwargs
    return str(place["path"]) if "path" in place else f"{place['host']}:{place['port']}"


async def time_of(client: aioredis.Redis) -> float | None:
    """Return the time of a server, in seconds since 1970; None if it does not report it. Never raises.

    This uses a connection of the pool: a proxy that does not know TIME may close it.
    """
    try:
        seconds, _ = await client.time()
        return float(seconds)
    except Exception:  # redis-py raises any exception if it cannot parse a reply
        return None


async def close(client: aioredis.Redis) -> None:
    """Close the connections of a client, and those to its sentinels."""
    await client.aclose()
    if isinstance(client.connection_pool, PrimaryPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()
