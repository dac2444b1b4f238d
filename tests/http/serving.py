"""An application on a real port, and somebody who asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.types import ASGIApp

from ratelimit_service.http.server import HttpPort


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`."""
    port = HttpPort(app, "127.0.0.1", 0)
    await port.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{port.address}", trust_env=False) as client:
            yield client
    finally:
        await port.stop(1)
