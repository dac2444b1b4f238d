"""The metrics of tracing (docs/tracing.md)."""

from __future__ import annotations

from .metric_info import Kind, MetricInfo

TRACING_METRICS: tuple[MetricInfo, ...] = (
    MetricInfo(
        "ratelimit_service_spans",
        Kind.COUNTER,
        ("outcome",),
        "Spans by outcome: exported; failed, because they could not be made or the collector did not take "
        "them; dropped, because too many were waiting. Only with TRACING_ENABLED.",
    ),
)
