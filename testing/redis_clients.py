"""Clients of Redis by URL. The service makes its own from settings (assembly/stores.py)."""

from __future__ import annotations

import redis.asyncio as aioredis

from ratelimit_service.stores.redis.client import Link, Login, at_address, at_socket


def connect(
    url: str, *, username: str = "", password: str = "", pool_size: int = 10, timeout: float = 10.0
) -> aioredis.Redis:
    """Return a client for `redis://` or `unix://`; `username` and `password` take precedence over the URL.

    The default of `timeout` is longer than REDIS_TIMEOUT, so that a slow machine fails no test.
    """
    parts = aioredis.connection.parse_url(url)
    login = Login(username or parts.get("username", ""), password or parts.get("password", ""))
    link = Link(login, parts.get("db", 0), pool_size=pool_size, timeout=timeout, connect_timeout=timeout)
    if "path" in parts:
        return at_socket(parts["path"], link)
    return at_address((parts.get("host", "localhost"), parts.get("port", 6379)), link)
