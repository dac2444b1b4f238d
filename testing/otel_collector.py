"""The OpenTelemetry Collector between a service and a receiver of this package (tools/collector)."""

from __future__ import annotations

import json
import subprocess
import threading
from types import TracebackType
from typing import Any, Self

import pytest

from .collector import Collector
from .service import REPOSITORY, inherited, port_of
from .waiting import PATIENCE, wait_for

BINARY = REPOSITORY / "build" / "collector"


class OtelCollector:
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
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            (str(BINARY), "--config", "yaml:" + json.dumps(configuration)),
            env=inherited(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._ports = {
                name: port_of(self._started(f"Starting {name.upper()} server")["endpoint"])
                for name in ("grpc", "http")
            }
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._kill()

    def environment(self, protocol: str) -> dict[str, str]:
        """Return the settings of a service that exports its spans to this collector soon."""
        return {
            **self._receiver.environment(protocol),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._ports[protocol]}",
        }

    def leave(self) -> list[dict[str, Any]]:
        """Send SIGTERM, and return all lines of its log once it has ended well."""
        self._process.terminate()
        assert 0 == self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return self._log()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            self._lines.extend(stderr)

    def _log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in tuple(self._lines) if line.startswith("{")]

    def _started(self, message: str) -> dict[str, Any]:
        def look() -> list[dict[str, Any]]:
            ended = self._process.poll()
            found = [line for line in self._log() if line["msg"] == message]
            assert found or ended is None, (
                f"the collector has ended with code {ended}: {''.join(self._lines)}"
            )
            return found

        return wait_for(message, look)[0]

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
