"""Where Redis is, and who we are to it: REDIS_URL and REDIS_AUTH.

REDIS_URL may hold a password. So no message here repeats any of it, and what the rest of the program gets to see is an
address without credentials, and the credentials apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import quote, unquote

from pydantic import BeforeValidator, SecretStr

from .settings_types import host_port, read_text

_FORMS = "give host:port, redis://host:6379/0, unix:///path or the path of a socket"
_DATABASE = re.compile(r"[0-9]{0,9}")


@dataclass(frozen=True)
class RedisTarget:
    """`address` is a `redis://` or `unix://` URL, with the database if one was given, and without credentials."""

    address: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def redis_target(url: str, auth: str = "") -> RedisTarget:
    """What REDIS_URL and REDIS_AUTH (`password` or `user:password`, which win) say together.

    Raises ValueError where the URL is none, with the rest of a sentence as in settings_types.
    """
    scheme, is_url, rest = url.partition("://")
    if not is_url:
        scheme, rest = ("unix", quote(url)) if "/" in url and "@" not in url else ("redis", url)
    if scheme == "rediss":
        raise ValueError("asks for TLS, which is not supported for Redis yet: give redis://host:6379")
    credentials, _, place = rest.rpartition("@")
    if credentials and not is_url:
        raise ValueError("has credentials but is no URL: give redis://user:password@host:6379, or REDIS_AUTH")
    if scheme == "unix":
        path, _, query = place.partition("?")
        address, database = f"unix://{path}", query.removeprefix("db=")
        wrong = not path
    else:
        server, _, database = place.partition("/")
        address = f"redis://{server}"
        wrong = scheme != "redis" or not _is_server(server, port_needed=not is_url)
    if wrong and "," in place:
        raise ValueError(
            "names several servers, and one is supported so far: give host:port, such as redis:6379"
        )
    if wrong:
        raise ValueError(f"is not where a Redis can be: {_FORMS}")
    if not _DATABASE.fullmatch(database):
        raise ValueError(
            "has more than a database behind its address: give redis://host:6379/0 or unix:///path?db=0"
        )
    if database:
        address += f"?db={database}"
    if auth:
        username, _, password = auth.partition(":") if ":" in auth else ("", "", auth)
    else:
        username, _, password = map(unquote, credentials.partition(":"))
    return RedisTarget(address, username, password)


def _is_server(text: str, *, port_needed: bool) -> bool:
    has_port = ":" in text.rpartition("]")[2]
    try:
        host, port = host_port(text if has_port else f"{text}:6379")
    except ValueError:
        return False
    return bool(host) and port > 0 and (has_port or not port_needed)


def _read_redis_url(text: str) -> SecretStr:
    redis_target(read_text(text))
    return SecretStr(text)


RedisUrl = Annotated[SecretStr, BeforeValidator(_read_redis_url)]
