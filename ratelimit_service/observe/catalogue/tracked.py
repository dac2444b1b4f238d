"""The gauges of tracked buckets (docs/budgets.md)."""

from __future__ import annotations

from .metric_info import Join, Kind, MetricInfo

_TRACKED = ("domain", "rule", "path", "bucket", "window")

TRACKED_METRICS: tuple[MetricInfo, ...] = (
    MetricInfo(
        "ratelimit_service_budget_used",
        Kind.GAUGE,
        _TRACKED,
        "The use of a bucket of a rule with track, as last seen by this process.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_budget_limit", Kind.GAUGE, _TRACKED, "The limit of that bucket.", join=Join.MOST
    ),
    MetricInfo(
        "ratelimit_service_budget_held",
        Kind.GAUGE,
        _TRACKED,
        "The tokens that requests in flight hold of that bucket, read every five seconds. "
        "Only of rules with holds.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_budget_seconds_to_reset",
        Kind.GAUGE,
        _TRACKED,
        "Seconds until its window ends; not for `other`.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_budget_window_seconds",
        Kind.GAUGE,
        _TRACKED,
        "The length of its window in seconds; not for `other`.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_budget_burn_per_second",
        Kind.GAUGE,
        _TRACKED,
        "The current rate of its use per second (docs/forecasts.md). For windows of ten minutes or longer; "
        "not for `other`.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_budget_seconds_to_exhaustion",
        Kind.GAUGE,
        _TRACKED,
        "Seconds until nothing will be left (docs/forecasts.md); absent if that is not before the window "
        "ends.",
        join=Join.LEAST,
    ),
)
