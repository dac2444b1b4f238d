"""The metrics of events (docs/events.md)."""

from __future__ import annotations

from .info import Kind, MetricInfo

EVENT_METRICS: tuple[MetricInfo, ...] = (
    MetricInfo(
        "ratelimit_service_event_deliveries",
        Kind.COUNTER,
        ("receiver", "outcome"),
        "Deliveries of events by outcome: delivered, failed (and tried again), dropped. Only with a receiver.",
    ),
    MetricInfo(
        "ratelimit_service_event_lost",
        Kind.COUNTER,
        (),
        "Events that were dropped before they reached the store, because it was away. Only with a receiver.",
    ),
)
