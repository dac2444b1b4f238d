"""The metrics of events (docs/events.md)."""

from __future__ import annotations

from .metric_info import Kind, MetricInfo

EVENT_METRICS: tuple[MetricInfo, ...] = (
    MetricInfo(
        "ratelimit_service_event_deliveries",
        Kind.COUNTER,
        ("receiver", "outcome"),
        "Deliveries of events by outcome: delivered, failed (and retried), dropped, overflowed (10,000 later "
        "events came first). Only with a receiver.",
    ),
    MetricInfo(
        "ratelimit_service_event_lost",
        Kind.COUNTER,
        (),
        "Events that were dropped because the store was unreachable. Only with a receiver.",
    ),
)
