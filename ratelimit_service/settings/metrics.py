"""The settings of metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .field import setting
from .types import Address, Bool, HostPort, UrlPath, host_port, whole_number

METRICS = "Metrics"


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """The fields of `table.Settings` for metrics."""

    use_prometheus: Bool = setting(
        METRICS, "true", "Whether metrics are served. envoyproxy/ratelimit: false."
    )
    prometheus_addr: Address = setting(
        METRICS, ":9090", "The address of the metrics port, as host:port. An empty host means every address."
    )
    prometheus_path: UrlPath = setting(METRICS, "/metrics", "The path of the metrics.")
    prometheus_response_time_as_milliseconds: Bool = setting(
        METRICS,
        "false",
        "Whether response times are in milliseconds, although the name of the metric says seconds.",
    )
    metrics_max_series: Annotated[int, whole_number(1)] = setting(
        METRICS,
        "10000",
        "The most series of one metric; everything beyond is counted as `other`. Ours.",
    )
    track_max_buckets: Annotated[int, whole_number(1, 10_000)] = setting(
        METRICS,
        "1000",
        "The most buckets of rules with `track` in the metrics, those with the largest share used; the "
        "others are summed. Ours.",
    )

    @property
    def prometheus_address(self) -> HostPort:
        """The address of the metrics port; an empty host means every address of the machine."""
        return host_port(self.prometheus_addr)
