"""Spans through the OpenTelemetry Collector: it takes what the service sends, and sends it on unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.otel_collector import OtelCollector
from testing.otlp_collector import Collector
from testing.service import Service, calling

from .conftest import write
from .test_tracing import CALL, PARENT, RULES, UNSAMPLED, call, is_call, request, spans


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(write(tmp_path / "d.yaml", RULES))


@pytest.fixture
def receiver() -> Iterator[Collector]:
    receiver = Collector()
    yield receiver
    receiver.stop()


protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


@protocols
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_collector_accepts_and_forwards_the_spans_of_a_refusal(
    config: str, redis_url: str, receiver: Collector, protocol: str, compression: str
) -> None:
    """They have their attributes, and the span of the store links to that of the batch."""
    with OtelCollector(receiver) as collector:
        environment = {
            **collector.environment(protocol),
            "CONFIG_PATH": config,
            "REDIS_URL": redis_url,
            "TRACING_SAMPLING_RATE": "0",
            "TRACING_SERVICE_NAME": "limits",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        }
        with Service(environment) as service:
            value = f"{protocol}-{compression}".encode()
            call(service, request(value, hits=11))
            call(service, request(value, hits=0), ("traceparent", UNSAMPLED), ("tracestate", "a=1"))
            (refused,) = receiver.wait_for("a refusal", lambda span: span.name == CALL)
            (store,) = receiver.wait_for("its call of the store", lambda span: span.parent == refused.id)
            (batch,) = receiver.wait_for("its batch", lambda span: [(span.trace, span.id)] == store.links)
            assert 0 == spans(service, "failed")
            assert 0 == service.stop()
        assert {"info"} == {line["level"] for line in collector.leave()}
    assert ("SERVER", *PARENT, "a=1", "") == (
        refused.kind,
        refused.trace,
        refused.parent,
        refused.state,
        refused.error,
    )
    assert (
        refused.attributes.items()
        >= {
            "ratelimit_service.code": "OVER_LIMIT",
            "ratelimit_service.refused_by": "d.team",
            "ratelimit_service.window": "year",
            "ratelimit_service.limit": 10,
        }.items()
    )
    assert ["OVER_LIMIT"] == refused.attributes["ratelimit_service.descriptor.codes"]
    assert ("INTERNAL", "store", "redis") == (
        store.kind,
        store.name,
        store.attributes["ratelimit_service.store"],
    )
    assert ("CLIENT", "store batch", 1) == (
        batch.kind,
        batch.name,
        batch.attributes["ratelimit_service.batch.requests"],
    )
    assert {"limits"} == {span.resource["service.name"] for span in (refused, store, batch)}


@protocols
def test_the_collector_gets_the_last_spans_of_a_stopping_service(
    config: str, receiver: Collector, protocol: str
) -> None:
    """After SIGTERM, the process sends them, and does not wait for OTEL_BSP_SCHEDULE_DELAY."""
    with OtelCollector(receiver) as collector:
        environment = {
            **collector.environment(protocol),
            "CONFIG_PATH": config,
            "BACKEND_TYPE": "memory",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        }
        with Service(environment) as service:
            with calling(service.grpc) as caller:
                for _ in range(20):
                    caller.ask("d", "team", "x", hits=0)
            assert [] == receiver.spans
            assert 0 == service.stop()
        assert 20 == len([span for span in receiver.spans if is_call(span)])


@protocols
def test_the_log_has_the_error_of_a_collector_that_cannot_forward_spans(
    config: str, receiver: Collector, protocol: str
) -> None:
    """The collector answers with an error, and the spans count as failed."""
    receiver.refuses = True
    with OtelCollector(receiver) as collector:
        environment = {
            **collector.environment(protocol),
            "CONFIG_PATH": config,
            "BACKEND_TYPE": "memory",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        with Service(environment) as service:
            call(service, request())
            service.wait_for_event("the collector does not take spans")
            assert 2 == spans(service, "failed")
            assert 0 == service.stop()
