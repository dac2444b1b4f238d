"""The settings of tracing; OpenTelemetry's packages read OTEL_EXPORTER_OTLP_* and OTEL_RESOURCE_ATTRIBUTES
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .field import setting
from .types import Bool, Share, Text, choice, whole_number

TRACING = "Tracing"

SERVICE_NAME = "RateLimit"
"""The default of upstream."""


@dataclass(frozen=True, kw_only=True)
class TracingSettings:
    """The fields of `table.Settings` for tracing."""

    tracing_enabled: Bool = setting(
        TRACING,
        "false",
        "Whether calls are traced (docs/tracing.md). Needs the extra `ratelimit-service[tracing]`, "
        "which the image has.",
    )
    tracing_exporter_protocol: Annotated[Literal["http", "grpc"], choice("http", "grpc")] = setting(
        TRACING,
        "http",
        "How spans are sent: OTLP over http or grpc, to OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 "
        "or http://localhost:4317).",
    )
    tracing_sampling_rate: Share = setting(
        TRACING,
        "1",
        "The share of calls without a parent that have a span; those with one follow it. "
        "Refusals and errors always have one.",
    )
    tracing_service_name: Text = setting(
        TRACING, SERVICE_NAME, "`service.name` of the spans. If it is the default, OTEL_SERVICE_NAME applies."
    )
    tracing_service_namespace: Text = setting(
        TRACING, "", "`service.namespace` of the spans; empty: none, or that of OTEL_RESOURCE_ATTRIBUTES."
    )
    tracing_service_instance_id: Text = setting(
        TRACING, "", "`service.instance.id` of the spans; empty: a random one for each process."
    )
    otel_sdk_disabled: Bool = setting(
        TRACING,
        "false",
        "Whether nothing is traced, whatever TRACING_ENABLED says. A standard variable of OpenTelemetry. "
        "Ours.",
    )
    otel_bsp_max_queue_size: Annotated[int, whole_number(1, 1_000_000)] = setting(
        TRACING,
        "2048",
        "The most calls and batches whose spans wait to be sent; the spans of further ones are dropped. "
        "A standard variable of OpenTelemetry. Ours.",
    )
    otel_bsp_max_export_batch_size: Annotated[int, whole_number(1, 100_000)] = setting(
        TRACING,
        "512",
        "The most calls and batches whose spans are sent together. A standard variable of OpenTelemetry. "
        "Ours.",
    )
    otel_bsp_schedule_delay: Annotated[int, whole_number(1)] = setting(
        TRACING,
        "5000",
        "The milliseconds after which spans are sent even if there are fewer. A standard variable of "
        "OpenTelemetry. Ours.",
    )
