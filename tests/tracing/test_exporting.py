"""Faults in an exporter, and the content of spans."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from ratelimit_service.core.errors import InternalError, StartError
from ratelimit_service.core.model import OK, Decision, Descriptor, Entry, Request
from ratelimit_service.settings.table import load_settings
from ratelimit_service.tracing.exporting import Exporting, make_exporter, resource_of
from ratelimit_service.tracing.spans import CallSpan, StoreSpan, attributes_of
from ratelimit_service.tracing.tracer import SpanQueue, Tracer
from testing.waiting import wait_for


class Broken:
    """An exporter that first raises, and later accepts spans."""

    def __init__(self) -> None:
        self.calls = 0
        self.taken: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("a defect")
        self.taken += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_the_exporting_thread_survives_an_exception_of_the_exporter() -> None:
    """The spans are counted as failed, and later ones are sent."""
    notes, exporter = SpanQueue(100, 1), Broken()
    tracer = Tracer(notes, 1.0)
    exporting = Exporting(notes, exporter, Resource({}), "memory", 1, 60.0)
    exporting.start()
    for number in range(3):
        tracer.refused(None, InternalError(f"{number}"))
    exporting.close(10)
    assert (2, 1, ["1", "2"]) == (
        exporting.exported,
        exporting.failed,
        [span.status.description for span in exporter.taken],
    )


def test_a_defective_note_loses_only_its_own_spans() -> None:
    """They are counted as failed. Other spans of the batch are sent."""
    notes, exporter = SpanQueue(100, 100), Broken()
    exporter.calls = 1
    tracer = Tracer(notes, 1.0)
    defect: Any = None
    exporting = Exporting(notes, exporter, Resource({}), "memory", 3, 60.0)
    tracer.refused(None, InternalError("0"))
    notes.put(CallSpan(1, 2, None, defect, False, "", StoreSpan(1, 2, None)))
    for number in (1, 2):
        tracer.refused(None, InternalError(f"{number}"))
    exporting.start()
    exporting.close(10)
    assert (3, 2, ["0", "1", "2"]) == (
        exporting.exported,
        exporting.failed,
        [span.status.description for span in exporter.taken],
    )


@pytest.mark.parametrize(
    ("negative", "expected"), [(False, 2**63 - 1), (True, 1 - 2**63)], ids=["a charge", "a refund"]
)
def test_hits_beyond_the_range_of_otlp_are_its_largest_integer(negative: bool, expected: int) -> None:
    """hits_addend is an unsigned integer of 64 bits."""
    notes, exporter = SpanQueue(100, 1), Broken()
    exporter.calls = 1
    descriptor = Descriptor((Entry(b"team", b"json"),), 2**64 - 1, negative=negative)
    request = Request("llm", (descriptor,))
    note = CallSpan(1, 2, None, attributes_of(request, Decision(OK, (), ())), False, "", None)
    notes.put(note)
    Exporting(notes, exporter, Resource({}), "memory", 1, 60.0)._send_waiting()
    (span,) = exporter.taken
    assert span.attributes is not None
    assert (expected,) == tuple(span.attributes["ratelimit_service.descriptor.hits"])  # type: ignore[arg-type]
    encode_spans([span])


def test_the_thread_pauses_four_times_as_long_as_it_works() -> None:
    """So it takes at most a fifth of a core from calls. When the process ends, it does not pause."""
    notes, exporter = SpanQueue(100, 1), Broken()
    exporter.calls = 1
    pauses: list[float] = []
    exporting = Exporting(notes, exporter, Resource({}), "memory", 1, 60.0)
    for number in range(3):
        Tracer(notes, 1.0).refused(None, InternalError(f"{number}"))

    def wait(timeout: float | None = None) -> bool:
        pauses.append(timeout or 0.0)
        return False

    exporting._closing.wait = wait  # type: ignore[method-assign]
    before = time.thread_time()
    exporting._send_waiting()
    took = time.thread_time() - before
    assert 3 == len(pauses)
    assert 0 < sum(pauses) <= 4 * took


def test_notes_that_arrive_during_an_export_are_sent_without_a_delay() -> None:
    """However many they are: the queue wakes the thread only when it fills up."""
    notes, exporter = SpanQueue(100, 2), Broken()
    exporter.calls = 1
    tracer = Tracer(notes, 1.0)
    exporting = Exporting(notes, exporter, Resource({}), "memory", 2, 3_600.0)
    taken = exporter.export

    def export(spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not exporter.taken:
            for number in range(2, 6):
                tracer.refused(None, InternalError(f"{number}"))
            notes.ready.clear()
        return taken(spans)

    exporter.export = export  # type: ignore[method-assign]
    for number in range(2):
        tracer.refused(None, InternalError(f"{number}"))
    exporting.start()
    wait_for("all spans", lambda: 6 == len(exporter.taken))
    exporting.close(10)


def test_a_few_spans_are_sent_after_the_delay() -> None:
    """OTEL_BSP_SCHEDULE_DELAY."""
    notes, exporter = SpanQueue(100, 100), Broken()
    exporter.calls = 1
    exporting = Exporting(notes, exporter, Resource({}), "memory", 10, 0.01)
    exporting.start()
    Tracer(notes, 1.0).refused(None, InternalError("few"))
    wait_for("a span", lambda: exporter.taken)
    exporting.close(10)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "RateLimit"),
        ({"TRACING_SERVICE_NAME": "limits", "OTEL_SERVICE_NAME": "other"}, "limits"),
        ({"OTEL_SERVICE_NAME": "other"}, "other"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=of-the-attributes"}, "of-the-attributes"),
    ],
)
def test_the_service_name_is_that_of_upstreams_variable_or_of_opentelemetrys(
    environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If neither is set, upstream's default applies."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    resource = resource_of(load_settings(environ))
    assert expected == resource.attributes["service.name"]
    assert resource.attributes["service.instance.id"]


def test_log_messages_of_opentelemetry_are_discarded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may contain invalid headers, and therefore tokens."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization Bearer t0ken")
    make_exporter("grpc").shutdown()
    make_exporter("http").shutdown()
    logging.getLogger("opentelemetry.sdk").error("t0ken")
    assert "t0ken" not in caplog.text


def test_invalid_settings_of_the_exporter_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of the variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(StartError) as raised:
        make_exporter("grpc")
    assert "OTEL_EXPORTER_OTLP_" in str(raised.value)


@pytest.mark.parametrize(
    ("general", "traces", "expected"),
    [
        ("", "", grpc.Compression.NoCompression),
        ("none", "", grpc.Compression.NoCompression),
        ("GZIP", "", grpc.Compression.Gzip),
        ("none", "gzip", grpc.Compression.Gzip),
        ("gzip", "none", grpc.Compression.NoCompression),
    ],
)
def test_both_protocols_accept_no_compression(
    monkeypatch: pytest.MonkeyPatch, general: str, traces: str, expected: grpc.Compression
) -> None:
    """An empty variable counts as unset."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", general)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", traces)
    exporter = make_exporter("grpc")
    exporter.shutdown()
    assert expected == exporter._compression  # type: ignore[attr-defined]


def test_an_unknown_compression_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    with pytest.raises(StartError, match="gzip or none"):
        make_exporter("grpc")
