"""The HTTP ports: /healthcheck and /json, the debug port, and the metrics port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from ..core.errors import StartError
from ..http.debug import debug_app
from ..http.main import main_app
from ..http.metrics import metrics_app
from ..http.server import HttpPort
from ..listening.certificates import Certificates
from ..observe.merging import MergedMetrics
from ..observe.metrics import Metrics
from ..settings.table import Settings
from ..transports import codec
from .operators import make_api
from .running import Running

if TYPE_CHECKING:
    from ..http.messages import Handler

Whole = Callable[[], Awaitable[Metrics | MergedMetrics]]
"""Returns the metrics of all workers."""


_RESIGNS_WITHIN = 1.0
"""Seconds for requests in flight when another worker takes the ports over."""


def http_certificates(settings: Settings) -> Certificates | None:
    """Return the certificates of the HTTP ports; None without TLS. Raises StartError."""
    certificate, key = settings.http_tls_cert, settings.http_tls_key
    if bool(certificate) != bool(key):
        raise StartError("HTTP_TLS_CERT and HTTP_TLS_KEY belong together: give both, or none")
    return Certificates("HTTP", certificate, key) if certificate else None


class HttpPorts:
    """Makes the handlers of all ports. `most` bounds the connections of each. Raises StartError."""

    def __init__(self, app: Running, settings: Settings, metrics: Whole, most: int) -> None:
        certificates = http_certificates(settings)

        def port(handler: Handler, host: str, number: int, what: str) -> HttpPort:
            return HttpPort(handler, host, number, what, certificates, most)

        debug = debug_app(
            lambda: app.service.tree,
            lambda: app.rulebook.problems,
            metrics,
            app.notes,
            make_api(app, settings),
        )
        self.ports = {
            "http": port(main_app(app.service, app.health, codec), settings.host, settings.port, "HTTP"),
            "debug": port(debug, settings.debug_host, settings.debug_port, "debug HTTP"),
        }
        if settings.use_prometheus:
            shown = metrics_app(metrics, settings.prometheus_path)
            self.ports["metrics"] = port(shown, *settings.prometheus_address, "metrics")

    async def start(self, addresses: Mapping[str, str]) -> None:
        """Open the ports that are not open, at these addresses if they are given. Raises StartError."""
        for name, port in self.ports.items():
            if not port.is_open:
                await port.start(addresses.get(name, ""))

    @property
    def are_open(self) -> bool:
        """Whether any port is open."""
        return any([port.is_open for port in self.ports.values()])

    async def stop(self, grace: float) -> None:
        """Accept no more requests, and cancel those in flight after `grace` seconds."""
        await asyncio.gather(*[port.stop(grace) for port in self.ports.values()])

    async def resign(self) -> None:
        """Close the ports for another worker that opens them."""
        await self.stop(_RESIGNS_WITHIN)

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the ports that are open, and "off"."""
        return {
            name: port.address if (port := self.ports.get(name)) is not None else "off"
            for name in ("http", "debug", "metrics")
        }
