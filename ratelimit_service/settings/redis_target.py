"""The address and the credentials of Redis, from REDIS_TYPE, REDIS_URL and REDIS_AUTH.

REDIS_URL may contain a password. So no message here repeats any part of it, and a RedisTarget has the address
and the credentials apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

from .types import HostPort, host_port

_ONE = "give host:port, redis://host:6379/0, rediss:// for TLS, unix:///path or the path of a socket"
_SEVERAL = "give host:port or redis://host:port, separated by commas"
_DATABASE = re.compile(r"[0-9]{0,9}")
_SCHEMES = frozenset(("redis", "rediss"))


class RedisType(StrEnum):
    """How the servers are organized."""

    SINGLE = "SINGLE"
    SENTINEL = "SENTINEL"
    CLUSTER = "CLUSTER"


@dataclass(frozen=True)
class RedisTarget:
    """`servers` are the sentinels if there are any; empty for a Unix socket, whose path is `path`."""

    kind: RedisType = RedisType.SINGLE
    servers: tuple[HostPort, ...] = ()
    path: str = ""
    master: str = ""
    database: int = 0
    tls: bool = False
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """The URL of each server without credentials, for people; for Sentinel, after the name of the
        master.
        """
        if self.path:
            return f"unix://{quote(self.path)}" + (f"?db={self.database}" if self.database else "")
        database = f"/{self.database}" if self.database else ""
        scheme = "rediss" if self.tls else "redis"
        urls = [f"{scheme}://{server}{database}" for server in map(host_and_port, self.servers)]
        return ",".join([self.master, *urls] if self.master else urls)


class _Place(NamedTuple):
    """The parts of a URL."""

    server: HostPort | None
    path: str
    database: int
    tls: bool
    username: str
    password: str


def redis_target(url: str, auth: str = "", kind: RedisType = RedisType.SINGLE) -> RedisTarget:
    """Return the target of a kind, a URL and credentials (`password` or `user:password`), which override the
    URL's.

    SINGLE has one server, CLUSTER servers separated by commas, SENTINEL the name of the master and then the
    sentinels. Raises ValueError for an invalid URL, with the rest of a sentence as in types.py.
    """
    master = ""
    if kind is RedisType.SINGLE:
        places = [_place(url, _ONE)]
    else:
        names = [name.strip() for name in url.split(",")]
        if kind is RedisType.SENTINEL:
            master, *names = names
            if not names or not re.fullmatch(r"[^:/@\s]+", master):
                raise ValueError("is not a master and its sentinels: give mymaster,host:26379,host:26379")
        places = [_place(name, _SEVERAL) for name in names]
        if any(place.server is None for place in places):
            raise ValueError(f"has a Unix socket, where {kind} needs servers: {_SEVERAL}")
    database = max(place.database for place in places)
    if database and kind is RedisType.CLUSTER:
        raise ValueError(
            "has a database, and a Cluster has only database 0: give host:port, such as redis:6379"
        )
    username, password = next(
        ((place.username, place.password) for place in places if place.username or place.password), ("", "")
    )
    if auth:
        username, password = credentials(auth)
    return RedisTarget(
        kind,
        tuple(place.server for place in places if place.server is not None),
        places[0].path,
        master,
        database,
        any(place.tls for place in places),
        username,
        password,
    )


def credentials(auth: str) -> tuple[str, str]:
    """Return user and password from `password` or `user:password`."""
    username, _, password = auth.partition(":") if ":" in auth else ("", "", auth)
    return username, password


def host_and_port(server: HostPort) -> str:
    """Return a server as in a URL."""
    return f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"


def _place(url: str, forms: str) -> _Place:
    scheme, is_url, rest = url.partition("://")
    if not is_url:
        scheme, rest = ("unix", quote(url)) if "/" in url and "@" not in url else ("redis", url)
    before, _, place = rest.rpartition("@")
    if before and not is_url:
        raise ValueError(
            "has credentials but is not a URL: give redis://user:password@host:6379, or REDIS_AUTH"
        )
    server = None
    if scheme == "unix":
        path, _, query = place.partition("?")
        database = query.removeprefix("db=")
        wrong = not path
    else:
        path = ""
        name, _, database = place.partition("/")
        server = _server(name, port_needed=not is_url)
        wrong = scheme not in _SCHEMES or server is None
    if wrong and "," in place and forms == _ONE:
        raise ValueError(
            "names several servers: set REDIS_TYPE to SENTINEL or CLUSTER, or give one host:port"
        )
    if wrong:
        raise ValueError(f"is not an address of Redis: {forms}")
    if not _DATABASE.fullmatch(database):
        raise ValueError(
            "has more than a database after its address: give redis://host:6379/0 or unix:///path?db=0"
        )
    username, _, password = map(unquote, before.partition(":"))
    return _Place(server, unquote(path), int(database or 0), scheme == "rediss", username, password)


def _server(text: str, *, port_needed: bool) -> HostPort | None:
    has_port = ":" in text.rpartition("]")[2]
    try:
        server = host_port(text if has_port else f"{text}:6379")
    except ValueError:
        return None
    return server if server.host and server.port > 0 and (has_port or not port_needed) else None
