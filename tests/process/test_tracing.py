"""Tracing through the ports of the process: the spans that a collector gets, and no cost for callers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.otlp_collector import Collector, Span
from testing.service import METHOD, Service, calling, run
from testing.waiting import wait_for

from .conftest import write

RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {unit: year, tokens_per_unit: 10}
  - key: free
    value: yes please
    rate_limit: {unlimited: true}
"""

CALL = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
PARENT = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
SAMPLED = f"00-{PARENT[0]}-{PARENT[1]}-01"
UNSAMPLED = f"00-{PARENT[0]}-{PARENT[1]}-00"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("tracing") / "d.yaml", RULES))


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a collector of this test: spans of a killed service may still be on their way."""
    collector = Collector()
    yield collector
    collector.stop()


def request(value: bytes = b"dba", hits: int | None = 0, key: bytes = b"team") -> pb.RateLimitRequest:
    message = pb.RateLimitRequest(domain="d")
    descriptor = message.descriptors.add()
    descriptor.entries.add(key=key, value=value)
    if hits is not None:
        descriptor.hits_addend.value = hits
    return message


def call(
    service: Service, message: pb.RateLimitRequest, *headers: tuple[str, str | bytes]
) -> pb.RateLimitResponse:
    with grpc.insecure_channel(service.grpc) as channel:
        method = channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )
        answer: pb.RateLimitResponse = method(message, timeout=60, metadata=headers)
        return answer


def is_call(span: Span) -> bool:
    return span.name == CALL


transports = pytest.mark.parametrize("transport", ["grpcio", "native"])


@transports
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_span_of_a_call_is_in_the_trace_of_the_caller(
    config: str, redis_url: str, collector: Collector, transport: str, protocol: str
) -> None:
    """It has a child for the store, which links to the span of the batch. Both protocols of OTLP carry
    them.
    """
    environment = {
        **collector.environment(protocol),
        "CONFIG_PATH": config,
        "REDIS_URL": redis_url,
        "GRPC_TRANSPORT": transport,
        "TRACING_SERVICE_NAME": "limits",
        "TRACING_SERVICE_NAMESPACE": "gateways",
        "TRACING_SERVICE_INSTANCE_ID": "pod-1",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret",
    }
    with Service(environment) as service:
        before = time.time_ns()
        call(service, request(hits=3), ("traceparent", SAMPLED), ("tracestate", "a=1,b=2"))
        (batch,) = collector.wait_for("a batch", lambda span: span.name == "store batch")
        spans = {span.name: span for span in collector.spans}
        of_call, store = spans[CALL], spans["store"]
    assert (*PARENT, "a=1,b=2", "SERVER", "") == (
        of_call.trace,
        of_call.parent,
        of_call.state,
        of_call.kind,
        of_call.error,
    )
    assert {
        "rpc.system": "grpc",
        "rpc.service": "envoy.service.ratelimit.v3.RateLimitService",
        "rpc.method": "ShouldRateLimit",
        "ratelimit_service.domain": "d",
        "ratelimit_service.code": "OK",
        "ratelimit_service.descriptors": 1,
        "ratelimit_service.descriptor.codes": ["OK"],
        "ratelimit_service.descriptor.hits": [3],
        "ratelimit_service.descriptor.rules": ["d.team"],
    } == of_call.attributes
    assert (PARENT[0], of_call.id, "INTERNAL", [(batch.trace, batch.id)]) == (
        store.trace,
        store.parent,
        store.kind,
        store.links,
    )
    assert ("CLIENT", "", "redis", 1, 1) == (
        batch.kind,
        batch.parent,
        batch.attributes["db.system.name"],
        batch.attributes["ratelimit_service.batch.requests"],
        batch.attributes["ratelimit_service.batch.hits"],
    )
    assert PARENT[0] != batch.trace
    # The batch is within the call of the store, and this within the call.
    times = [before, of_call.start, store.start, batch.start, batch.end, store.end, of_call.end]
    assert sorted(times) == times
    assert (
        of_call.resource.items()
        >= {
            "service.name": "limits",
            "service.namespace": "gateways",
            "service.instance.id": "pod-1",
            "deployment.environment.name": "test",
        }.items()
    )
    assert "secret" == collector.headers[0]["api-key"]
    assert "secret" not in service.log


def test_requests_to_json_have_spans(config: str, collector: Collector) -> None:
    """The HTTP port reads the same headers."""
    environment = {
        **collector.environment(),
        "CONFIG_PATH": config,
        "BACKEND_TYPE": "memory",
    }
    with Service(environment) as service:
        body = {"domain": "d", "descriptors": [{"entries": [{"key": "team", "value": "j"}]}]}
        answer = httpx.post(
            f"http://{service.http}/json",
            json=body,
            headers={"traceparent": SAMPLED},
            trust_env=False,
            timeout=60,
        )
        assert 200 == answer.status_code
        (span,) = collector.wait_for("a call", lambda span: span.name == "POST /json")
        assert (*PARENT, "SERVER", "/json", "OK") == (
            span.trace,
            span.parent,
            span.kind,
            span.attributes["http.route"],
            span.attributes["ratelimit_service.code"],
        )
        refused = httpx.post(f"http://{service.http}/json", content=b"{", trust_env=False, timeout=60)
        assert 400 == refused.status_code
        collector.wait_for("an error", lambda span: span.name == "POST /json" and bool(span.error))


@transports
def test_refusals_and_errors_have_spans_at_any_sampling_rate(
    config: str, collector: Collector, transport: str
) -> None:
    """Allowed calls follow their parents, or the rate if they have none."""
    environment = {
        **collector.environment(),
        "CONFIG_PATH": config,
        "GRPC_TRANSPORT": transport,
        "BACKEND_TYPE": "memory",
        "TRACING_SAMPLING_RATE": "0",
    }
    with Service(environment) as service:
        call(service, request(hits=10))
        call(service, request(hits=0, value=b"other"), ("traceparent", UNSAMPLED))
        call(service, request(hits=0), ("traceparent", UNSAMPLED))
        call(service, request(hits=0))
        with pytest.raises(grpc.RpcError) as invalid:
            call(service, pb.RateLimitRequest(), ("traceparent", UNSAMPLED))
        assert grpc.StatusCode.INVALID_ARGUMENT is invalid.value.code()
        call(service, request(hits=2, value=b"sampled"), ("traceparent", SAMPLED))
        collector.wait_for(
            "the last call", lambda span: [2] == span.attributes.get("ratelimit_service.descriptor.hits")
        )
    spans = [span for span in collector.spans if is_call(span)]
    seen = [(span.attributes.get("ratelimit_service.code"), span.parent, bool(span.error)) for span in spans]
    assert [
        ("OVER_LIMIT", PARENT[1], False),
        ("OVER_LIMIT", "", False),
        (None, PARENT[1], True),
        ("OK", PARENT[1], False),
    ] == seen
    assert (
        spans[0].attributes.items()
        >= {
            "ratelimit_service.refused_by": "d.team",
            "ratelimit_service.window": "year",
            "ratelimit_service.limit": 10,
        }.items()
    )
    assert all("dba" not in str(span.attributes) for span in collector.spans)  # an id may contain it


HOSTILE = [
    ("traceparent", ""),
    ("traceparent", "x" * 5_000),
    ("traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01"),
    ("traceparent", f"ff-{PARENT[0]}-{PARENT[1]}-01"),
    ("traceparent", f"00-{PARENT[0]}-{PARENT[1]}-01-more"),
    ("traceparent", SAMPLED.upper()),
    ("traceparent", "%s%n ;DROP"),
]


@transports
def test_an_invalid_trace_context_is_ignored(config: str, collector: Collector, transport: str) -> None:
    """The call is answered, and its span is the root of a trace. An invalid tracestate is dropped."""
    environment = {
        **collector.environment(),
        "CONFIG_PATH": config,
        "GRPC_TRANSPORT": transport,
        "BACKEND_TYPE": "memory",
    }
    with Service(environment) as service:
        for header in HOSTILE:
            assert 1 == call(service, request(b"h"), header).overall_code
        found = collector.wait_for("the calls", is_call, len(HOSTILE))
        assert [""] * len(found) == [span.parent for span in found]
        assert len(found) == len({span.trace for span in found})
        collector.spans.clear()
        for state in ("=" * 400, "a" * 600, "=1", "a=1," * 100 + "b=2", "a=1,b=2"):
            headers = [("traceparent", SAMPLED), ("tracestate", state)]
            assert 1 == call(service, request(b"h"), *headers).overall_code
        found = collector.wait_for("the calls", is_call, 5)
        assert {PARENT[1]} == {span.parent for span in found}
        assert all(span.state in ("", "a=1,b=2") for span in found), [span.state for span in found]
        assert service.running


def test_a_collector_that_hangs_does_not_delay_calls(config: str, collector: Collector) -> None:
    """Calls are answered while the exporter waits. Spans beyond the bound are dropped and counted."""
    environment = {
        **collector.environment(),
        "CONFIG_PATH": config,
        "BACKEND_TYPE": "memory",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
    }
    requests = collector.requests
    with Service(environment) as service, collector.hanging():
        call(service, request())
        wait_for("an export that hangs", lambda: collector.requests > requests)
        with calling(service.grpc) as caller:
            for _ in range(40):
                caller.ask("d", "team", "x", hits=0)
        # Of 40 calls, each with a span of its own and one of the store, 20 wait.
        assert 40 == spans(service, "dropped")
        assert (0, 0) == (spans(service, "exported"), spans(service, "failed"))
        assert (200, "OK") == service.health()
        service.signal(signal.SIGTERM)
        assert 0 == service.ended()
    assert 1 == len(service.events("spans are lost: the collector does not accept them"))


def test_the_log_has_the_error_of_a_failing_collector(config: str, collector: Collector) -> None:
    """It is logged once a minute with the reason, and the lost spans are counted."""
    environment = {**collector.environment(), "CONFIG_PATH": config, "BACKEND_TYPE": "memory"}
    collector.refuses = True
    try:
        with Service(environment) as service:
            call(service, request())
            line = service.wait_for_event("the collector does not take spans")
            assert "no spans are taken here" in line["error"]
            assert 2 == spans(service, "failed")
            call(service, request())
            wait_for("another failure", lambda: 4 == spans(service, "failed"))
            assert 0 == service.stop()
            assert 1 == len(service.events("the collector does not take spans"))
    finally:
        collector.refuses = False
    away = {
        **environment,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with Service(away) as service:
        call(service, request())
        service.wait_for_event("the collector does not take spans")
        assert "OK" == pb.RateLimitResponse.Code.Name(call(service, request()).overall_code)
        assert 0 == service.stop()


def test_waiting_spans_are_sent_before_the_process_ends(config: str, collector: Collector) -> None:
    """After SIGTERM, the process does not wait for OTEL_BSP_SCHEDULE_DELAY."""
    environment = {
        **collector.environment(),
        "CONFIG_PATH": config,
        "BACKEND_TYPE": "memory",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    }
    with Service(environment) as service:
        for _ in range(3):
            call(service, request())
        assert [] == collector.spans
        assert 0 == service.stop()
    assert 3 == len([span for span in collector.spans if is_call(span)])


def test_each_worker_traces_its_calls(config: str, redis_url: str, collector: Collector) -> None:
    """It sends its spans before it ends, and the metric adds up all workers."""
    environment = {
        **collector.environment(),
        "CONFIG_PATH": config,
        "REDIS_URL": redis_url,
        "WORKERS": "2",
    }
    with Service(environment) as service:

        def both() -> bool:
            call(service, request(b"w"))
            return 2 == len({span.resource["process.pid"] for span in collector.spans})

        wait_for("spans of both workers", both)
        calls = len([span for span in collector.spans if is_call(span)])
        wait_for("the metric", lambda: spans(service, "exported") >= 2 * calls)
        assert 2 == len({span.resource["service.instance.id"] for span in collector.spans})
        assert 0 == service.stop()


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_tracing_imports_nothing_while_off_and_is_optional(config: str, tmp_path: Path, enabled: str) -> None:
    """A stand-in for the package records its import, and then fails it: with tracing on, the service warns
    and serves.
    """
    imported = tmp_path / "imported"
    (tmp_path / "opentelemetry.py").write_text(
        f"open({str(imported)!r}, 'w').close()\nraise ModuleNotFoundError('not installed', name=__name__)\n"
    )
    environment = {"CONFIG_PATH": config, "BACKEND_TYPE": "memory", "PYTHONPATH": str(tmp_path)}
    with Service({**environment, "TRACING_ENABLED": enabled, "OTEL_SDK_DISABLED": "false"}) as service:
        assert 1 == call(service, request(), ("traceparent", SAMPLED)).overall_code
        text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
    warnings = [event for event in service.everything() if "the extra `tracing`" in event["@message"]]
    assert (enabled == "true") == imported.exists() == bool(warnings)
    assert "ratelimit_service_spans" not in text


def test_invalid_settings_of_the_exporter_stop_the_start(config: str) -> None:
    """The message names them, and not their values."""
    ended = run(
        "serve",
        environment={
            "CONFIG_PATH": config,
            "BACKEND_TYPE": "memory",
            "TRACING_ENABLED": "true",
            "TRACING_EXPORTER_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        },
    )
    assert 1 == ended.code
    assert "OTEL_EXPORTER_OTLP_" in ended.err


def spans(service: Service, outcome: str) -> float:
    """Return the number of spans with an outcome."""
    text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
    wanted = f'ratelimit_service_spans{{outcome="{outcome}"}} '
    return sum(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))
