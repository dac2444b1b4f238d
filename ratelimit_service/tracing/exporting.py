"""Makes spans of notes, and sends them, in a thread for which the event loop never waits.

The exporters are OpenTelemetry's, which read OTEL_EXPORTER_OTLP_*: addresses, headers, certificates,
compression, timeouts. They block and try again for as long as OTEL_EXPORTER_OTLP_TIMEOUT; meanwhile notes
wait, and are dropped once there are too many.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ..core.errors import StartError
from ..settings.table import Settings
from ..settings.tracing import SERVICE_NAME
from ..version import version
from .spans import PREFIX, BatchSpan, CallSpan, StoreSpan
from .tracer import (
    SpanQueue,
    new_span_id,
    new_trace_id,
    spans_in,
)

if TYPE_CHECKING:
    from grpc import Compression

_GRPC = "envoy.service.ratelimit.v3.RateLimitService"
_METHOD = "ShouldRateLimit"

_LOG_EVERY = 60.0
"""Seconds between two log lines about spans that could not be sent."""

_LONGEST = 300
"""Characters of the reason."""

_SHARE = 0.2
"""The largest share of a core that the thread takes. It competes with the event loop for the GIL, and a flood
of refusals, each with a span, must not slow down the calls of others."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Exporter(Protocol):
    """Sends spans, as the exporters of OpenTelemetry do."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, and return whether the collector has accepted them."""
        ...

    def shutdown(self) -> None:
        """Stop sending."""
        ...


class Exporting:
    """Sends the spans of `notes` through `exporter`, up to `batch` notes at once, every `delay` seconds or
    earlier.

    It pauses after each batch, so that it takes a fifth of the time of a core at most; what comes meanwhile
    waits, or is dropped.

    `store` is the name of the kind of store: redis or memory.
    """

    def __init__(
        self, notes: SpanQueue, exporter: Exporter, resource: Resource, store: str, batch: int, delay: float
    ) -> None:
        self._notes = notes
        self._exporter = exporter
        self._resource = resource
        self._store = store
        self._batch = batch
        self._delay = delay
        self._scope = InstrumentationScope("ratelimit_service", version())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._log = structlog.get_logger("ratelimit_service.tracing")
        self._logged_at = float("-inf")
        self._reasons = _Reasons()
        self.exported = 0
        """Spans that the collector has accepted."""
        self.failed = 0
        """Spans that it has not accepted, or that could not be made."""

    def start(self) -> None:
        """Start the thread."""
        self._reasons.listen()
        self._thread.start()

    def close(self, patience: float) -> None:
        """Send the waiting spans, for at most `patience` seconds."""
        self._closing.set()
        self._notes.ready.set()
        if self._thread.ident is None:
            return
        self._thread.join(patience)
        if self._thread.is_alive():
            self._exporter.shutdown()  # ends its pauses between attempts
            self._log.warning("spans are lost: the collector does not accept them", notes=len(self._notes))

    def _run(self) -> None:
        ready = self._notes.ready
        while not self._closing.is_set():
            ready.wait(self._delay)
            ready.clear()
            self._send_waiting()
            if len(self._notes) >= self._batch:  # they came meanwhile, and need not wake this thread again
                ready.set()
        self._send_waiting()
        self._exporter.shutdown()

    def _send_waiting(self) -> None:
        """Send the notes that wait now, without those that arrive meanwhile, which would delay the end of the
        process.
        """
        left = len(self._notes)
        while left > 0:
            notes = self._notes.take(min(left, self._batch))
            left -= len(notes)
            if not notes:
                return
            began = time.thread_time()
            spans = self._made_of(notes)
            try:
                taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
            except Exception as error:  # a defect of the exporter must not end the thread
                taken = False
                self._reasons.last = f"{type(error).__name__}: {error}"
            if taken:
                self.exported += len(spans)
            else:
                self.failed += len(spans)
                self._say("the collector does not take spans", self._reasons.last)
            self._closing.wait((time.thread_time() - began) * (1 / _SHARE - 1))

    def _made_of(self, notes: Sequence[CallSpan | BatchSpan]) -> list[ReadableSpan]:
        """Return the spans of notes, without those of notes that have a defect, which count as failed."""
        spans: list[ReadableSpan] = []
        for note in notes:
            try:
                spans += self._spans(note)
            except Exception as error:  # it must not end the thread, and no other note is lost
                self.failed += spans_in(note)
                self._say("spans cannot be made", f"{type(error).__name__}: {error}")
        return spans

    def _say(self, event: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            self._log.warning(event, error=reason[:_LONGEST], failed=self.failed)

    def _spans(self, note: CallSpan | BatchSpan) -> list[ReadableSpan]:
        """Return the spans of a note."""
        if isinstance(note, BatchSpan):
            return [self._batch_span(note)]
        remote = None
        trace_id, state = new_trace_id(), TraceState()
        if (parent := note.parent) is not None:
            trace_id, state = parent.trace_id, _state(parent.state)
            flags = _SAMPLED if parent.sampled else TraceFlags()
            remote = SpanContext(trace_id, parent.span_id, True, flags, state)
        own = SpanContext(trace_id, new_span_id(), False, _SAMPLED, state)
        if note.json:
            name = "POST /json"
            attributes: dict[str, Any] = {"http.route": "/json"}
        else:
            name = f"{_GRPC}/{_METHOD}"
            attributes = {"rpc.system": "grpc", "rpc.service": _GRPC, "rpc.method": _METHOD}
        attributes |= note.attributes
        call = self._span(name, own, remote, SpanKind.SERVER, note.start, note.end, attributes, note.error)
        if note.store is None:
            return [call]
        return [call, self._store_span(note.store, own, state)]

    def _store_span(self, store: StoreSpan, call: SpanContext, state: TraceState) -> ReadableSpan:
        context = SpanContext(call.trace_id, new_span_id(), False, _SAMPLED, state)
        error = ""
        links: tuple[Link, ...] = ()
        if (batch := store.batch) is not None:
            error = batch.error[:_LONGEST]
            links = (Link(SpanContext(batch.trace_id, batch.span_id, False, _SAMPLED)),)
        attributes = {f"{PREFIX}store": self._store}
        return self._span(
            "store", context, call, SpanKind.INTERNAL, store.start, store.end, attributes, error, links
        )

    def _batch_span(self, batch: BatchSpan) -> ReadableSpan:
        context = SpanContext(batch.trace_id, batch.span_id, False, _SAMPLED)
        attributes = {
            "db.system.name": self._store,
            "db.operation.name": "EVALSHA",
            f"{PREFIX}batch.requests": batch.requests,
            f"{PREFIX}batch.hits": batch.hits,
        }
        error = batch.error[:_LONGEST]
        return self._span(
            "store batch", context, None, SpanKind.CLIENT, batch.start, batch.end, attributes, error
        )

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start: int,
        end: int,
        attributes: dict[str, Any],
        error: str = "",
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes=attributes,
            links=links,
            kind=kind,
            status=Status(StatusCode.ERROR, error) if error else Status(),
            start_time=start,
            end_time=end,
            instrumentation_scope=self._scope,
        )


class _Reasons(logging.Handler):
    """Keeps the last reason for which an exporter has failed, in place of a line of the log for each attempt.

    Other lines of OpenTelemetry may contain OTEL_EXPORTER_OTLP_HEADERS, which have tokens: they are dropped.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def listen(self) -> None:
        """Take the log of OpenTelemetry's packages."""
        logger = logging.getLogger("opentelemetry")
        logger.handlers = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.name.startswith("opentelemetry.exporter."):
            self.last = record.getMessage()


def make_exporter(protocol: str) -> Exporter:
    """Return the exporter of TRACING_EXPORTER_PROTOCOL. Raises StartError if OTEL_EXPORTER_OTLP_* are not
    valid.
    """
    _Reasons().listen()
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            return OTLPSpanExporter(compression=_compression_of_grpc())
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        return OverHttp()
    except (ValueError, OSError) as error:
        raise StartError(f"spans cannot be exported with these OTEL_EXPORTER_OTLP_*: {error}") from None


def _compression_of_grpc() -> Compression:
    """Return that of OTEL_EXPORTER_OTLP_COMPRESSION: the exporter refuses "none" and the empty value
    itself.
    """
    import grpc  # exports over HTTP do not need it

    names = ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    value = next(filter(None, (os.environ.get(name, "").strip().lower() for name in names)), "none")
    known = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}
    if value not in known:
        raise ValueError(f"the compression over gRPC is gzip or none, not {value!r}")
    return known[value]


def resource_of(settings: Settings) -> Resource:
    """Return the resource of the spans: by TRACING_*, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES."""
    given = {
        "service.namespace": settings.tracing_service_namespace,
        "service.instance.id": settings.tracing_service_instance_id,
    }
    attributes: dict[str, str | int] = {name: value for name, value in given.items() if value}
    detected = Resource.create()
    name = settings.tracing_service_name
    if name != SERVICE_NAME or str(detected.attributes["service.name"]).startswith("unknown_service"):
        attributes["service.name"] = name
    if "service.instance.id" not in {*attributes, *detected.attributes}:
        attributes["service.instance.id"] = str(uuid.uuid4())
    attributes["service.version"] = version()
    attributes["process.pid"] = os.getpid()
    return detected.merge(Resource(attributes))


def _state(text: bytes) -> TraceState:
    """Return the tracestate of a caller; an empty one for anything that is not valid."""
    try:
        return TraceState.from_header([text.decode("ascii")]) if text else TraceState()
    except ValueError:
        return TraceState()
