"""An OpenTelemetry collector for tests: OTLP over gRPC and HTTP, with the messages of opentelemetry-proto.

It keeps spans. A test can make it refuse them or not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from .waiting import wait_for

_EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"

PATH = "/v1/traces"


class Span(NamedTuple):
    """A span. Ids are in hexadecimal; `parent` is empty for a root, `error` unless the status is one."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    flags: int
    start: int
    end: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    error: str
    resource: dict[str, Any]


class Collector:
    """Listens on `grpc_port` and `http_port` of 127.0.0.1."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        """All spans that were taken, in the order of their arrival."""
        self.headers: list[dict[str, str]] = []
        """The headers of each request."""
        self.requests = 0
        """Requests that have arrived, whatever became of them."""
        self.refuses = False
        self._answers = threading.Event()
        self._answers.set()
        self._workers = ThreadPoolExecutor(8)
        self._server = grpc.server(self._workers, options=[("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(
            self._export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(_EXPORT, {"Export": method})]
        )
        self.grpc_port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                taken = self.path == PATH and collector._take(
                    ExportTraceServiceRequest.FromString(body), dict(self.headers.items())
                )
                self.send_response(200 if taken else 503)
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString() if taken else b"")

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.http_port = self._http.server_address[1]
        self._serving = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._serving.start()

    def environment(self, protocol: str = "grpc") -> dict[str, str]:
        """Return the settings of a service that exports its spans to this collector soon."""
        port = self.grpc_port if protocol == "grpc" else self.http_port
        return {
            "TRACING_ENABLED": "true",
            "TRACING_EXPORTER_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Answer nothing in this context."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    def wait_for(self, what: str, wanted: Callable[[Span], bool], many: int = 1) -> list[Span]:
        """Wait until there are this many spans of a kind, and return them."""
        return wait_for(
            what, lambda: found if len(found := list(filter(wanted, tuple(self.spans)))) >= many else []
        )

    def stop(self) -> None:
        """Stop both servers."""
        self._answers.set()
        self._server.stop(None).wait()
        self._workers.shutdown()
        self._http.shutdown()
        self._serving.join()
        self._http.server_close()

    def _export(self, request: Any, context: Any) -> Any:
        if not self._take(request, dict(context.invocation_metadata())):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no spans are taken here")
        return ExportTraceServiceResponse()

    def _take(self, request: Any, headers: dict[str, str]) -> bool:
        self.requests += 1
        self._answers.wait()
        if self.refuses:
            return False
        self.headers.append(headers)
        for of_resource in request.resource_spans:
            resource = {each.key: _value(each.value) for each in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans += [_span(span, resource) for span in of_scope.spans]
        return True


def _span(span: Any, resource: dict[str, Any]) -> Span:
    kind = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return Span(
        span.name,
        kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.flags,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        {each.key: _value(each.value) for each in span.attributes},
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.status.message if failed else "",
        resource,
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
