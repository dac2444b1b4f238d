"""The metrics of workers (docs/workers.md)."""

from __future__ import annotations

from .metric_info import Join, Kind, MetricInfo

_WORKER = ("worker",)

WORKER_METRICS: tuple[MetricInfo, ...] = (
    # With WORKERS above 1. All other metrics are of all workers together.
    MetricInfo(
        "ratelimit_service_workers",
        Kind.GAUGE,
        ("state",),
        "Workers: wanted, and serving. Only with WORKERS above 1, like the next four.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_worker_restarts",
        Kind.COUNTER,
        (),
        "Restarts of workers that have ended; the log has the reasons.",
    ),
    MetricInfo(
        "ratelimit_service_worker_generation",
        Kind.GAUGE,
        _WORKER,
        "The number of the load whose rules the worker has in force; it should be equal in all workers.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_worker_calls",
        Kind.COUNTER,
        _WORKER,
        "Calls of ShouldRateLimit by worker. A connection stays with one worker.",
    ),
    MetricInfo(
        "ratelimit_service_worker_cpu_seconds",
        Kind.COUNTER,
        _WORKER,
        "CPU time of the worker in seconds. A worker with more than 0.9 a second is saturated.",
    ),
)
