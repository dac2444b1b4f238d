"""Clients of redis-py: to one server, to the primary that sentinels name, and to each server of a Cluster.

Their retries are off: a script call whose answer got lost may have been carried out, and a second one would count its hits
twice. What may be sent again is for layers/settling.py to say.

Errors name hosts and ports, never credentials: these are asked for when a connection is made, and are in no repr.
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
"""Seconds of silence until the first probe, seconds between probes, and how many may stay unanswered.

Firewalls and NAT forget a connection that is silent, some within seconds, and then drop its packets without a reset.
"""


class Tls(NamedTuple):
    """How connections are secured: files with PEM, by their paths; empty where there are none."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    check_hostname: bool = True
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """What is in the files now. Raises ConnectionError, with their names, where that is of no use."""
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
    # The same for every version of Python, and what Go does: an intermediate CA in the file is trusted without its root, and
    # certificates of private CAs need not keep to all that RFC 5280 wants of them.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key or None)
    return context


class Login(CredentialProvider):
    """Who we are: a user (empty for the default one) and a password; or a file that says `password` or `user:password`.

    redis-py asks whenever it makes a connection, so a file may change.
    """

    def __init__(self, username: str = "", password: str = "", file: str = "") -> None:
        self._known = (username, password)
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The arguments of AUTH. Raises ConnectionError where the file says nothing."""
        username, password = self._read() if self._file else self._known
        return (username, password) if username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same."""
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
    """How connections are made. Times are seconds: `timeout` for an answer, and for a connection of the pool."""

    login: Login = field(default_factory=Login)
    database: int = 0
    tls: Tls | None = None
    pool_size: int = 10
    timeout: float = 1.0
    connect_timeout: float = 1.0

    def options(self) -> dict[str, Any]:
        """The options of redis-py's pools, but for those of TCP."""
        options: dict[str, Any] = {
            "db": self.database,
            "max_connections": self.pool_size,
            "timeout": self.timeout,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.connect_timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # nothing here needs more, and every server and proxy speaks it
            "driver_info": None,  # CLIENT SETINFO: a proxy that does not know it closes the connection (twemproxy)
        }
        if self.login:
            options["credential_provider"] = self.login
        if self.tls is not None:
            options["tls"] = self.tls
        return options

    def tcp_options(self) -> dict[str, Any]:
        """Those of TCP beside them: the kernel keeps idle connections alive, and closes those that the network has lost."""
        values = {**_KEEPALIVE, "TCP_USER_TIMEOUT": max(1, round(self.timeout * 1000))}
        known = {getattr(socket, name): value for name, value in values.items() if hasattr(socket, name)}
        return {**self.options(), "socket_keepalive": True, "socket_keepalive_options": known}


class TlsConnection(Connection):
    """A connection over TLS whose certificates are read again when their files have changed."""

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
    """A connection to whom the sentinels say is the primary, when it is made."""


class _ToPrimaryOverTls(SentinelManagedConnection, TlsConnection):
    """The same, over TLS."""


class PrimaryPool(SentinelConnectionPool, aioredis.BlockingConnectionPool):
    """Connections to the primary that sentinels name. Callers wait for a connection, as with a single server."""

    async def get_master_address(self) -> Address:
        """Ask the sentinels; connections to another primary that are idle are closed.

        They are asked as clients are meant to ask them. redis-py looks at their own list (SENTINEL MASTERS), which has
        the old primary for as long as it takes to tell all others of the new one.
        """
        sentinels: list[aioredis.Redis] = self.sentinel_manager.sentinels
        wrong = ""
        for sentinel in list(sentinels):
            try:
                reply = await sentinel.execute_command(  # type: ignore[no-untyped-call]
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service_name
                )
            except (RedisError, OSError) as error:
                wrong = f"; {address_of(sentinel)} said: {error}"
                continue
            if reply is None:
                continue
            sentinels.remove(sentinel)
            sentinels.insert(0, sentinel)  # who has answered is asked first the next time
            address = (reply[0].decode(), int(reply[1]))
            if self.master_address != address:
                self.master_address = address
                await self.disconnect(inuse_connections=False)
            return address
        raise RedisConnectionError(f"no sentinel knows a primary of {self.service_name}{wrong}")


def at_address(address: Address, link: Link) -> aioredis.Redis:
    """A client of one server."""
    host, port = address
    return _client(TlsConnection if link.tls else Connection, link, host=host, port=port)


def at_socket(path: str, link: Link) -> aioredis.Redis:
    """A client of the server at a Unix socket."""
    options = link.options()
    options.pop("tls", None)
    pool = aioredis.BlockingConnectionPool(connection_class=UnixDomainSocketConnection, path=path, **options)
    return aioredis.Redis.from_pool(pool)


def through_sentinels(
    master: str, sentinels: Sequence[Address], link: Link, sentinel_login: Login | None = None
) -> aioredis.Redis:
    """A client of whichever server the sentinels name as the primary of `master`."""
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


def connect(
    url: str, *, username: str = "", password: str = "", pool_size: int = 10, timeout: float = 1.0
) -> aioredis.Redis:
    """A client for `redis://` or `unix://`; credentials given apart win over those in the URL."""
    parts = aioredis.connection.parse_url(url)
    login = Login(username or parts.get("username", ""), password or parts.get("password", ""))
    link = Link(login, parts.get("db", 0), pool_size=pool_size, timeout=timeout, connect_timeout=timeout)
    if "path" in parts:
        return at_socket(parts["path"], link)
    return at_address((parts.get("host", "localhost"), parts.get("port", 6379)), link)


def _client(kind: type[AbstractConnection], link: Link, **place: Any) -> aioredis.Redis:
    return aioredis.Redis.from_pool(
        aioredis.BlockingConnectionPool(connection_class=kind, **place, **link.tcp_options())
    )


class Opened(NamedTuple):
    """A connection that is ready for commands, and where it leads; the address of a Unix socket is its path and 0."""

    stream: asyncio.StreamWriter
    address: Address


async def open_connection(client: aioredis.Redis) -> Opened:
    """A connection as the client makes them for itself, logged in and all, for somebody else to drive (wire.py).

    Raises what redis-py does. It has no way to hand a connection over: this is the one place that reaches into it.
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
        return Opened(stream, (connection.path, 0))
    return Opened(stream, (connection.host, connection.port))


def patience_of(client: aioredis.Redis) -> float:
    """Seconds for which the client waits for a reply (Link.timeout)."""
    return float(client.connection_pool.connection_kwargs["socket_timeout"])


def address_of(client: aioredis.Redis) -> str:
    """Where a client connects to, for people."""
    pool = client.connection_pool
    if isinstance(pool, PrimaryPool):
        host, port = pool.master_address or (pool.service_name, "?")
        return f"{host}:{port}"
    place = pool.connection_kwargs
    return str(place["path"]) if "path" in place else f"{place['host']}:{place['port']}"


async def time_of(client: aioredis.Redis) -> float | None:
    """The time of a server, in seconds since 1970; None where it does not tell. Never raises.

    By a connection of the pool: a proxy that does not know TIME may close the one on which it is asked.
    """
    try:
        seconds, _ = await client.time()
        return float(seconds)
    except Exception:  # the driver raises anything, where it cannot parse a reply
        return None


async def close(client: aioredis.Redis) -> None:
    """Close the connections of a client, and those to its sentinels."""
    await client.aclose()
    if isinstance(client.connection_pool, PrimaryPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()
