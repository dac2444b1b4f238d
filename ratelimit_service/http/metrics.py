"""The metrics port: one path for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Protocol

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp


class Exposition(Protocol):
    """What can be scraped (observe/metrics.py)."""

    def text(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4."""
        ...


def metrics_app(metrics: Exposition, path: str = "/metrics") -> ASGIApp:
    """The metrics at `path`."""
    one_at_a_time = asyncio.Lock()

    async def scrape(request: Request) -> Response:
        # In a thread, because ten thousand series take so long that the calls meanwhile would feel it.
        async with one_at_a_time:
            content = await asyncio.to_thread(metrics.text)
        return Response(content, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    return Router([Route(path, scrape)], redirect_slashes=False)
