"""Envoy Gateway's dashboard of its rate-limit service: a real Prometheus evaluates its queries over the
metrics of this service.

Prometheus scrapes the pod as that of Envoy Gateway's add-ons does: it takes the port from an annotation, and
every label of the pod becomes a label of its series. The service discovery of Kubernetes is replaced by one
target with the labels that it would have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.control_plane import limit, resource
from testing.service import METHOD, Service, port_of
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import PATIENCE, wait_for

from ..envoy_gateway import ENVIRONMENT
from ..monitoring import Prometheus
from .policies import rlconfig

DOMAIN = "default/eg/http"
"""The value of the dashboard's variable."""
ROUTE = "httproute/default/http-ratelimit/rule/0/match/0/ratelimit_example"
RULE = "rule-0-match-0"
LIMIT = f'{{domain="{DOMAIN}", key1="{ROUTE}_{ROUTE}", key2="{RULE}_{RULE}"}}'
POD = 'app_kubernetes_io_component="ratelimit"'

GO = "(go_memstats_gc_cpu_fraction)*1000000"
MEMORY = (
    f"(process_resident_memory_bytes{{{POD}}})/1000000",
    f"(process_virtual_memory_bytes{{{POD}}})/1000000",
)
COUNTS = {
    f"ratelimit_service_rate_limit_total_hits{LIMIT}": 4.0,
    f"ratelimit_service_rate_limit_near_limit{LIMIT}": 1.0,
    f"ratelimit_service_rate_limit_over_limit{LIMIT}": 1.0,
}
"""After four requests of a limit of three."""


def scrape(port: int) -> dict[str, Any]:
    """Return the configuration of Prometheus. The pod has the labels and annotations that Envoy Gateway gives
    it.
    """
    meta = "__meta_kubernetes_pod_"
    pod = {
        "ip": "127.0.0.1",
        "label_app_kubernetes_io_component": "ratelimit",
        "label_app_kubernetes_io_managed_by": "envoy-gateway",
        "label_app_kubernetes_io_name": "envoy-ratelimit",
        "annotation_prometheus_io_path": "/metrics",
        "annotation_prometheus_io_port": str(port),
        "annotation_prometheus_io_scrape": "true",
    }
    relabelling = [
        {"source_labels": [f"{meta}annotation_prometheus_io_scrape"], "action": "keep", "regex": "true"},
        {
            "source_labels": [f"{meta}annotation_prometheus_io_path"],
            "regex": "(.+)",
            "target_label": "__metrics_path__",
        },
        {
            "source_labels": [f"{meta}ip", f"{meta}annotation_prometheus_io_port"],
            "separator": ":",
            "target_label": "__address__",
        },
        {"action": "labelmap", "regex": f"{meta}label_(.+)"},
    ]
    job = {
        "job_name": "kubernetes-pods",
        "honor_labels": True,
        "static_configs": [
            {"targets": ["pod"], "labels": {f"{meta}{name}": value for name, value in pod.items()}}
        ],
        "relabel_configs": relabelling,
    }
    return {"scrape_configs": [job]}


def test_every_query_of_the_dashboard_has_data_except_that_of_go(tmp_path: Path) -> None:
    """Its variable has the domain that Envoy Gateway's example has."""
    with ThreadedControlPlane() as plane:
        leaf = limit(RULE, 3, "year", value=RULE)
        plane.send(resource(DOMAIN, {"key": ROUTE, "value": ROUTE, "descriptors": [leaf]}))
        settings = {
            "BACKEND_TYPE": "memory",
            "CONFIG_TYPE": ENVIRONMENT["CONFIG_TYPE"],
            "USE_PROMETHEUS": ENVIRONMENT["USE_PROMETHEUS"],
            "CONFIG_GRPC_XDS_NODE_ID": ENVIRONMENT["CONFIG_GRPC_XDS_NODE_ID"],
            "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
        }
        with Service(settings) as service:
            wait_for("the rules", lambda: ROUTE in "\n".join(rlconfig(service)))
            use(service)
            with Prometheus(tmp_path, scrape(port_of(service.metrics)), every="250ms") as prometheus:
                wait_for("a scrape", lambda: prometheus.ask("up == 1"))
                found = {query: list(prometheus.ask(query).values()) for query in (*COUNTS, *MEMORY, GO)}
    assert {query: [value] for query, value in COUNTS.items()} == {query: found[query] for query in COUNTS}
    for query in MEMORY:
        (megabytes,) = found[query]
        assert 10 < megabytes < 1_000_000
    assert [] == found[GO]


def use(service: Service) -> None:
    """Send four requests of the limit."""
    request = pb.RateLimitRequest(domain=DOMAIN)
    descriptor = request.descriptors.add()
    for name in (ROUTE, RULE):
        descriptor.entries.add(key=name.encode(), value=name.encode())
    with grpc.insecure_channel(service.grpc) as channel:
        method = channel.unary_unary(
            METHOD, pb.RateLimitRequest.SerializeToString, pb.RateLimitResponse.FromString
        )
        for _ in range(4):
            method(request, timeout=PATIENCE)
