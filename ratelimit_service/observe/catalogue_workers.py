"""The metrics of workers (docs/workers.md)."""

from __future__ import annotations

from .info import Join, Kind, MetricInfo

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
        "Workers that have ended and were started again; the log has the reasons.",
    ),
    MetricInfo(
        "ratelimit_service_worker_generation",
        Kind.GAUGE,
        _WORKER,
        "The load of the files whose rules the worker has in force: the same number in all workers.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_worker_calls",
        Kind.COUNTER,
        _WORKER,
        "Calls of ShouldRateLimit by worker: a connection stays with one.",
    ),
    MetricInfo(
        "ratelimit_service_worker_cpu_seconds",
        Kind.COUNTER,
        _WORKER,
        "CPU time of the worker in seconds: a worker with more than 0.9 a second has no more to give.",
    ),
)
