"""The OpenTelemetry Collector between a service and a receiver of this package (tools/collector)."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

import pytest

from .otlp_collector import Collector
from .service import REPOSITORY, Serving, port_of

BINARY = REPOSITORY / "build" / "collector"


class OtelCollector(Serving):
    """A collector that receives OTLP at free ports, and sends each request on before it answers it.

    Skips the test if it could not be built.
    """

    def __init__(self, receiver: Collector) -> None:
        if not BINARY.exists():
            pytest.skip("there is no build/collector: `make collector` builds it")
        self._receiver = receiver
        free = {"endpoint": "127.0.0.1:0"}
        configuration = {
            "receivers": {"otlp": {"protocols": {"grpc": free, "http": free}}},
            "exporters": {
                "otlp_http": {
                    "endpoint": f"http://127.0.0.1:{receiver.http_port}",
                    "compression": "none",
                    "retry_on_failure": {"enabled": False},
                    "sending_queue": {"enabled": False},
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}, "logs": {"encoding": "json"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
            },
        }
        super().__init__({}, command=(str(BINARY), "--config", "yaml:" + json.dumps(configuration)))
        try:
            self._ports = {
                name: port_of(self._started(f"Starting {name.upper()} server")["endpoint"])
                for name in ("grpc", "http")
            }
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.kill()

    def environment(self, protocol: str) -> dict[str, str]:
        """Return the settings of a service that exports its spans to this collector soon."""
        return {
            **self._receiver.environment(protocol),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._ports[protocol]}",
        }

    def leave(self) -> list[dict[str, Any]]:
        """Send SIGTERM, and return all lines of its log once it has ended well."""
        assert 0 == self.stop()
        return self.everything()

    def _started(self, message: str) -> dict[str, Any]:
        return self._wait_for(
            message, lambda: [line for line in self.everything() if line["msg"] == message]
        )[0]
