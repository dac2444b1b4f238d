"""The metrics of several workers as those of one service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from ratelimit_service.observe.catalogue.all_metrics import CATALOGUE
from ratelimit_service.observe.catalogue.metric_info import Kind
from ratelimit_service.observe.exposition import Process
from ratelimit_service.observe.merging import MergedMetrics, departed_counts, packed
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.tables import Sample
from ratelimit_service.observe.tracking import TrackedCounter

from .counting import count, descriptor
from .test_series import everything

FAR = 2**40


def tracked(bucket: str, used: int, seen: float, limit: int = 100) -> TrackedCounter:
    return TrackedCounter(bucket, ("d", "a", "d.team", bucket, "day"), limit, used, 0, FAR, seen)


def snapshot(metrics: Metrics, *rows: TrackedCounter, cpu: float = 0.0, start: float = 0.0) -> bytes:
    process = {"process_cpu_seconds_total": cpu, "process_start_time_seconds": start}
    return packed(metrics.families(), rows, process)


def merged(*snapshots: bytes, gone: bytes = b"", most: int = 1_000) -> MergedMetrics:
    return MergedMetrics(dict(enumerate(snapshots)), gone, [], Process(), most)


def values(shown: MergedMetrics | Metrics) -> Mapping[tuple[str, str], float]:
    """Return every sample by its name and labels."""
    text = b"".join(shown.chunks()).decode()
    lines = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return {(name, labels.replace('"', "")): float(value) for name, labels, value in lines}


def worker(requests: int, **gauges: float) -> Metrics:
    """Return a worker that has decided this many requests of 3 hits each."""
    metrics = Metrics()
    for _ in range(requests):
        count(metrics, descriptor("team=x", 3))
        metrics.requested("ShouldRateLimit", 0.001)
    metrics.config_failed()
    for name, value in gauges.items():
        metrics.watch(f"ratelimit_service_{name}", lambda value=value: value)  # type: ignore[misc]
    return metrics


def test_counters_and_histograms_are_the_sum() -> None:
    both = values(merged(snapshot(worker(2)), snapshot(worker(5))))
    one = values(worker(7))
    for series, value in one.items():
        if series[0].startswith(
            ("ratelimit_service_rule", "ratelimit_service_rate_limit", "ratelimit_service_total")
        ):
            assert value == both[series]
    name = "ratelimit_service_response_time_seconds"
    assert (7, 7) == (
        both[f"{name}_count", "grpc_method=ShouldRateLimit"],
        both[f"{name}_bucket", "grpc_method=ShouldRateLimit,le=+Inf"],
    )
    assert 0 == both[f"{name}_bucket", "grpc_method=ShouldRateLimit,le=0.0005"]


@pytest.mark.parametrize(
    "name, of_each, expected",
    [
        ("calls_in_hand", (3, 4), 7),
        ("grpc_connections", (3, 4), 7),
        ("healthy", (1, 0), 0),
        ("store_circuit_open", (0, 1), 1),
        ("amendments_version", (8, 7), 7),
        ("amendments_age_seconds", (0.1, 40), 40),
        ("config_load_error", (1, 1), 1),  # each counts the same load
    ],
)
def test_other_values_are_those_of_all(name: str, of_each: tuple[float, float], expected: float) -> None:
    """The value is the sum, or the one that an alert needs."""
    watched = [{} if name.startswith("config") else {name: value} for value in of_each]
    shown = values(merged(*[snapshot(worker(1, **each)) for each in watched]))
    assert expected == shown[f"ratelimit_service_{name}", ""]


def test_every_gauge_has_a_rule_for_merging_workers() -> None:
    """The sum of two versions, or of two ages, has no meaning."""
    assert [] == [info.name for info in CATALOGUE if info.kind is Kind.GAUGE and info.join is None]


def test_the_metrics_of_one_worker_are_those_of_a_service_without_workers() -> None:
    """Every metric of the catalogue is shown, with its order and labels. Tracked buckets come from their
    rows.
    """
    metrics = everything()

    def shown(of: Any) -> list[tuple[str, str, float]]:
        return [
            (sample.name, str(sample.labels), sample.value)
            for sample in of.counters()
            if not sample.name.startswith(("ratelimit_service_budget_", "ratelimit_service_worker"))
        ]

    assert shown(metrics) == shown(merged(snapshot(metrics)))


def test_a_worker_that_has_ended_stays_in_the_sums() -> None:
    """For Prometheus, a counter that decreases was reset to 0, so the remaining value would count as an
    increase.
    """
    gone = departed_counts(b"", snapshot(worker(2, healthy=0), cpu=5.0))
    gone = departed_counts(gone, snapshot(worker(3, healthy=0), tracked("team=x", 9, 1.0), cpu=7.0))
    shown = values(merged(snapshot(worker(4, healthy=1), cpu=1.0), gone=departed_counts(gone, b"")))
    calls = shown["ratelimit_service_total_requests", "grpc_method=ShouldRateLimit"]
    assert (9, 1) == (calls, shown["ratelimit_service_healthy", ""])
    assert 13 <= shown["process_cpu_seconds_total", ""]
    assert 4 == shown["ratelimit_service_worker_calls", "worker=0"]
    assert [] == [name for name, _ in shown if name.startswith("ratelimit_service_budget_used")]


def test_a_tracked_bucket_has_the_latest_value_of_all_workers() -> None:
    """Any worker may have seen it last. After a refund, the last value is not the largest."""
    shown = values(
        merged(
            snapshot(Metrics(), tracked("team=x", 90, 1.0), tracked("team=y", 5, 1.0)),
            snapshot(Metrics(), tracked("team=x", 10, 2.0), tracked("team=z", 7, 1.0)),
        )
    )
    assert 3 == len([labels for name, labels in shown if name == "ratelimit_service_budget_used"])
    assert [10, 5, 7] == [
        value
        for bucket in ("team=x", "team=y", "team=z")
        for (name, labels), value in shown.items()
        if name == "ratelimit_service_budget_used" and f"bucket={bucket}" in labels
    ]


def test_the_bound_on_tracked_buckets_is_that_of_the_service() -> None:
    rows = [[tracked(f"team={worker}{number}", 90 - number, 1.0) for number in range(5)] for worker in "ab"]
    shown = values(merged(*[snapshot(Metrics(), *each) for each in rows], most=3))
    buckets = [labels for name, labels in shown if name == "ratelimit_service_budget_used"]
    assert (4, 1) == (len(buckets), len([labels for labels in buckets if "bucket=other" in labels]))


def test_the_metrics_of_all_processes_are_one() -> None:
    """CPU and memory are the sum over the processes, and the start is that of the first one."""
    supervisor = Process().values()
    shown = merged(snapshot(Metrics(), cpu=2.0, start=7.0), snapshot(Metrics(), cpu=3.0, start=9.0)).process()
    assert 7.0 == shown["process_start_time_seconds"]
    assert 5.0 + supervisor["process_cpu_seconds_total"] <= shown["process_cpu_seconds_total"]


def test_samples_of_the_supervisor_are_shown() -> None:
    more = [Sample("ratelimit_service_workers", {"state": "serving"}, 2)]
    shown = values(MergedMetrics({0: snapshot(Metrics())}, b"", more, Process(), 10))
    assert 2 == shown["ratelimit_service_workers", "state=serving"]
