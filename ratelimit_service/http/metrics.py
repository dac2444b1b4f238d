"""The metrics port: one path for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from .messages import Handler, Request, Response
from .routes import get, routes
from .streamed_pages import StreamedPages


class Exposition(Protocol):
    """The source of the metrics (observe/metrics.py, observe/merging.py)."""

    def chunks(self) -> Iterable[bytes]:
        """Yield all metrics in chunks of Prometheus' text format 0.0.4."""
        ...


def metrics_app(metrics: Callable[[], Awaitable[Exposition]], path: str = "/metrics") -> Handler:
    """Return the handler of the metrics at `path`. `metrics` returns those of all workers."""
    pages = StreamedPages()

    async def scrape(request: Request) -> Response:
        return pages.page((await metrics()).chunks(), CONTENT_TYPE_PLAIN_0_0_4)

    return routes({path: get(scrape)})
