"""The metrics port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

from ratelimit_service.http.metrics import metrics_app
from ratelimit_service.observe.metrics import Metrics

from .serving import always, serving


async def test_metrics_are_in_prometheus_text_format() -> None:
    """Also for clients that accept OpenMetrics, which has other names for counters."""
    metrics = Metrics()
    metrics.config_failed()
    async with serving(metrics_app(always(metrics), "/prom")) as client:
        response = await client.get(
            "/prom", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
        elsewhere = await client.get("/metrics")
    assert (200, "text/plain; version=0.0.4; charset=utf-8", 404) == (
        response.status_code,
        response.headers["content-type"],
        elsewhere.status_code,
    )
    assert "ratelimit_service_config_load_error 1.0" in response.text.splitlines()


async def test_every_scrape_has_the_current_values() -> None:
    """There is no flush, and no delay."""
    metrics = Metrics()
    async with serving(metrics_app(always(metrics))) as client:
        shown = []
        for _ in range(2):
            metrics.config_failed()
            lines = (await client.get("/metrics")).text.splitlines()
            shown += [line for line in lines if line.startswith("ratelimit_service_config_load_error")]
    assert ["ratelimit_service_config_load_error 1.0", "ratelimit_service_config_load_error 2.0"] == shown


async def test_a_slow_scrape_delays_no_call() -> None:
    """A thread renders it, one at a time, while the event loop continues."""

    class Slow:
        rendered = 0

        def __init__(self) -> None:
            self.go_on = threading.Event()

        def chunks(self) -> Iterator[bytes]:
            assert self.go_on.wait(30)
            self.rendered += 1
            yield b"done\n"

    slow = Slow()
    async with serving(metrics_app(always(slow))) as client:
        scrapes = [asyncio.create_task(client.get("/metrics")) for _ in range(2)]
        missing = await client.get("/nothing")
        assert (404, 0) == (missing.status_code, slow.rendered)
        slow.go_on.set()
        assert ["done\n", "done\n"] == [(await scrape).text for scrape in scrapes]
