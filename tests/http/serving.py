"""A handler on a real port, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx

from ratelimit_service.http.messages import Handler
from ratelimit_service.http.server import HttpPort

T = TypeVar("T")


def always(value: T) -> Callable[[], Awaitable[T]]:
    """Return an async function that returns this value."""

    async def function() -> T:
        return value

    return function


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the handler on a port."""
    port = HttpPort(handler, "127.0.0.1", 0)
    await port.start()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{port.address}", trust_env=False, timeout=60
        ) as client:
            yield client
    finally:
        await port.stop(1)
