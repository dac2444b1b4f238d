"""The metrics of control planes (docs/xds.md)."""

from __future__ import annotations

from .info import Kind, MetricInfo

_SERVER = ("server",)

XDS_METRICS: tuple[MetricInfo, ...] = (
    # Control planes, where CONFIG_TYPE has GRPC_XDS_SOTW. `server` is the name that CONFIG_GRPC_XDS_SERVER_URL gives it.
    MetricInfo(
        "ratelimit_service_xds_connected",
        Kind.GAUGE,
        _SERVER,
        "1 while the control plane is connected, else 0. There with CONFIG_TYPE=GRPC_XDS_SOTW, as the next eight.",
    ),
    MetricInfo(
        "ratelimit_service_xds_stale_since_seconds",
        Kind.GAUGE,
        _SERVER,
        "Since when its rules in force may be old, because it is away, in seconds since 1970; 0 where they are not.",
    ),
    MetricInfo(
        "ratelimit_service_xds_generation",
        Kind.GAUGE,
        _SERVER,
        "How many different sets of its rules have been in force since the start; 0 before the first.",
    ),
    MetricInfo(
        "ratelimit_service_xds_accepted_time_seconds",
        Kind.GAUGE,
        _SERVER,
        "When its rules in force were taken, in seconds since 1970; 0 before the first.",
    ),
    MetricInfo(
        "ratelimit_service_xds_response_time_seconds",
        Kind.GAUGE,
        _SERVER,
        "When it has sent a set last, in seconds since 1970; 0 before the first.",
    ),
    MetricInfo("ratelimit_service_xds_response_bytes", Kind.GAUGE, _SERVER, "The size of that set."),
    MetricInfo(
        "ratelimit_service_xds_domains",
        Kind.GAUGE,
        ("server", "state"),
        "Its domains: in_force; rejected, with the last good rules in force or none; missing from its last set, with rules that end "
        "after XDS_DOMAIN_GRACE.",
    ),
    MetricInfo(
        "ratelimit_service_xds_responses",
        Kind.COUNTER,
        ("server", "outcome"),
        "Sets that it has sent, by outcome: accepted, unchanged, rejected (as a whole or in part).",
    ),
    MetricInfo(
        "ratelimit_service_xds_calls_ended",
        Kind.COUNTER,
        ("server", "code"),
        "Calls to it that have ended and attempts to connect that have failed, by the status of gRPC.",
    ),
)
