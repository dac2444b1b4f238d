"""A handler on a real port, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from ratelimit_service.http.messages import Handler
from ratelimit_service.http.server import HttpPort


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the handler."""
    port = HttpPort(handler, "127.0.0.1", 0)
    await port.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{port.address}", trust_env=False) as client:
            yield client
    finally:
        await port.stop(1)
