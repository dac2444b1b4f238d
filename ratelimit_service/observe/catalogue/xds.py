"""The metrics of control planes (docs/xds.md)."""

from __future__ import annotations

from .metric_info import Join, Kind, MetricInfo

_SERVER = ("server",)

XDS_METRICS: tuple[MetricInfo, ...] = (
    # With CONFIG_TYPE=GRPC_XDS_SOTW. `server` is the name in CONFIG_GRPC_XDS_SERVER_URL.
    MetricInfo(
        "ratelimit_service_xds_connected",
        Kind.GAUGE,
        _SERVER,
        "1 while the control plane is connected, else 0. Only with CONFIG_TYPE=GRPC_XDS_SOTW, like the "
        "next eight.",
        join=Join.LEAST,
    ),
    MetricInfo(
        "ratelimit_service_xds_stale_since_seconds",
        Kind.GAUGE,
        _SERVER,
        "Since when its rules in force may be outdated because it is away, in Unix seconds; 0 if they are"
        " not.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_xds_generation",
        Kind.GAUGE,
        _SERVER,
        "The number of different sets of its rules in force since the start.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_xds_accepted_time_seconds",
        Kind.GAUGE,
        _SERVER,
        "When its rules in force were accepted, in Unix seconds; 0 before the first.",
        join=Join.LEAST,
    ),
    MetricInfo(
        "ratelimit_service_xds_response_time_seconds",
        Kind.GAUGE,
        _SERVER,
        "When it sent its last set, in Unix seconds; 0 before the first.",
        join=Join.LEAST,
    ),
    MetricInfo(
        "ratelimit_service_xds_response_bytes", Kind.GAUGE, _SERVER, "The size of that set.", join=Join.MOST
    ),
    MetricInfo(
        "ratelimit_service_xds_domains",
        Kind.GAUGE,
        ("server", "state"),
        "Its domains: in_force; rejected, with or without last good rules in force; missing from its last"
        " set, with rules in force until XDS_DOMAIN_GRACE ends.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_xds_responses",
        Kind.COUNTER,
        ("server", "outcome"),
        "Its sets by outcome: accepted, unchanged, rejected (in whole or in part).",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_xds_calls_ended",
        Kind.COUNTER,
        ("server", "code"),
        "Ended calls and failed connects to it, by gRPC status.",
    ),
)
