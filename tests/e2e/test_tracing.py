"""One trace from Envoy to the service: both send their spans to one collector, configured as in
docs/tracing.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testing.envoy import TEMPLATE, EnvoyProcess, connection_manager
from testing.mock_llm import MockLlm
from testing.otlp_collector import Collector, Span
from testing.service import Service, port_of

from ..docs.documents import DOCS, section
from .conftest import HERE

pytestmark = pytest.mark.e2e

CALL = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def hits_of(span: Span) -> object:
    return span.attributes.get("ratelimit_service.descriptor.hits")


def traced(bootstrap: dict[str, Any], collector: Collector) -> str:
    """Return a configuration of Envoy with the tracing of the page."""
    (shown,) = [
        block.text
        for block in section(DOCS / "tracing.md", "## One trace with Envoy")
        if block.info == "yaml"
    ]
    connection_manager(bootstrap)["tracing"] = yaml.safe_load(shown)["tracing"]
    clusters = {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}
    cluster = yaml.safe_load(yaml.safe_dump(clusters["ratelimit"]).replace("ratelimit", "collector"))
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = collector.grpc_port
    bootstrap["static_resources"]["clusters"].append(cluster)
    bootstrap["layered_runtime"] = {
        "layers": [{"name": "soon", "static_layer": {"tracing.opentelemetry.min_flush_spans": 1}}]
    }
    return yaml.safe_dump(bootstrap)


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_the_span_of_a_call_is_a_child_of_envoys_span(llm: MockLlm, tmp_path: Path, transport: str) -> None:
    """The span of a check is in the trace of its request. So is that of a refusal, for which Envoy records no
    span.

    The charge after the response has no trace context, so its span is the root of a trace.
    """
    collector = Collector()
    environment = {
        **collector.environment(),
        "CONFIG_PATH": str(HERE / "teams.yaml"),
        "BACKEND_TYPE": "memory",
        "GRPC_TRANSPORT": transport,
        "TRACING_SAMPLING_RATE": "1",
        "TRACING_SERVICE_NAME": "limits",
    }
    text = TEMPLATE.read_text().replace("$llm_port", str(llm.port)).replace("$retry_after", "false")
    try:
        with Service(environment) as service:
            bootstrap = yaml.safe_load(text.replace("$ratelimit_port", str(port_of(service.grpc))))
            envoy = EnvoyProcess(tmp_path, traced(bootstrap, collector))
            try:
                with httpx.Client(
                    base_url=f"http://{envoy.listeners['gateway']}", trust_env=False, timeout=60
                ) as client:

                    def post(sampled: str) -> int:
                        headers = {
                            "x-team-id": "traced",
                            "x-mock-tokens": "70",
                            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-{sampled}",
                        }
                        return client.post("/team", headers=headers, json={}).status_code

                    def ours(span: Span) -> bool:
                        return span.name == CALL and span.trace == TRACE

                    assert 200 == post("01")
                    (check,) = collector.wait_for("a check", ours)
                    (charge,) = collector.wait_for("a charge", lambda span: hits_of(span) == [70])
                    codes = [post("00") for _ in range(2)]
                    assert [200, 429] == codes
                    _, refusal = collector.wait_for("the refusal", ours, 2)
                    collector.wait_for(
                        "Envoy's spans", lambda span: span.resource["service.name"] == "gateway", 2
                    )
            finally:
                envoy.stop()
        spans = tuple(collector.spans)
    finally:
        collector.stop()
    assert ([0], "") == (hits_of(check), charge.parent)
    gateways = {span.id: span for span in spans if span.resource["service.name"] == "gateway"}
    assert {TRACE} == {span.trace for span in gateways.values()}
    assert {"limits"} == {span.resource["service.name"] for span in spans if span.id not in gateways}
    parent = gateways[check.parent]
    assert "CLIENT" == parent.kind
    assert parent.parent in gateways  # the request
    assert parent.start <= check.start <= check.end <= parent.end
    assert ("OVER_LIMIT", "team-budget") == (
        refusal.attributes["ratelimit_service.code"],
        refusal.attributes["ratelimit_service.refused_by"],
    )
    assert refusal.parent not in gateways
