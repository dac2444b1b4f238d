"""The variables of envoyproxy/ratelimit without an effect here, and what the service does instead.

A variable with a value that would matter is named in a warning at the start, so that an operator who replaces
the image learns it then, and not from a missing metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Unsupported(NamedTuple):
    """Related variables. `names` maps each to its harmless values, which ask for nothing that is missing
    here.

    If there is a `switch`, the variables matter only while it is on. Unset, it is off, unless `switched_on`.
    """

    instead: str
    names: Mapping[str, tuple[str, ...]]
    switch: str = ""
    switched_on: bool = False


_OFF = ("0", "f", "F", "FALSE", "false", "False")
_NONE: tuple[str, ...] = ()

UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported(
        "statistics are not pushed to statsd; they are served as Prometheus metrics",
        {
            "USE_STATSD": _OFF,
            "STATSD_HOST": _NONE,
            "STATSD_PORT": _NONE,
            "STATSD_PROTOCOL": _NONE,
            "STATS_FLUSH_INTERVAL": _NONE,
        },
        switch="USE_STATSD",
        switched_on=True,
    ),
    Unsupported(
        "statistics are not pushed to DogStatsD; they are served as Prometheus metrics",
        {"USE_DOG_STATSD": _OFF, "USE_DOG_STATSD_MOGRIFIERS": _NONE},
        switch="USE_DOG_STATSD",
    ),
    Unsupported(
        "statistics are always kept; USE_PROMETHEUS=false closes their port",
        {"DISABLE_STATS": _OFF},
    ),
    Unsupported("metrics have no additional labels", {"EXTRA_TAGS": _NONE}),
    Unsupported(
        "metrics have the names of envoyproxy/ratelimit's own mapping",
        {"PROMETHEUS_MAPPER_YAML": _NONE},
    ),
    Unsupported("a month is 30 days", {"USE_CALENDAR_MONTH_RATE_LIMIT": _OFF}),
    Unsupported(
        "the ports open at once, and health reports whether Redis answers; connecting is retried until it "
        "does",
        {"REDIS_STARTUP_MAX_ELAPSED_TIME": ("0", "0s")},
    ),
    Unsupported(
        "counters are kept in Redis or in memory",
        {
            "MEMCACHE_HOST_PORT": _NONE,
            "MEMCACHE_MAX_IDLE_CONNS": ("2",),
            "MEMCACHE_SRV": _NONE,
            "MEMCACHE_SRV_REFRESH": ("0", "0s"),
            "MEMCACHE_TLS": _OFF,
            "MEMCACHE_TLS_CLIENT_CERT": _NONE,
            "MEMCACHE_TLS_CLIENT_KEY": _NONE,
            "MEMCACHE_TLS_CACERT": _NONE,
            "MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION": _OFF,
        },
    ),
)


class Unneeded(NamedTuple):
    """Variables whose purpose the service serves in another way, whatever their values."""

    instead: str
    names: tuple[str, ...]


UNNEEDED: tuple[Unneeded, ...] = (
    Unneeded(
        "connecting to a control plane is retried with the pauses of XDS_CLIENT_BACKOFF_*",
        ("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL",),
    ),
    Unneeded(
        "requests that arrive while a call to Redis is in flight form the next batch, without a timer",
        (
            "REDIS_PIPELINE_WINDOW",
            "REDIS_PIPELINE_LIMIT",
            "REDIS_CLUSTER_PIPELINE_PARALLELISM",
            "REDIS_PERSECOND_PIPELINE_WINDOW",
            "REDIS_PERSECOND_PIPELINE_LIMIT",
            "REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM",
        ),
    ),
    Unneeded(
        "calls wait for a connection, as with upstream's WAIT, for at most REDIS_TIMEOUT",
        ("REDIS_POOL_ON_EMPTY_BEHAVIOR", "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR"),
    ),
    Unneeded(
        "health always reports whether Redis answers",
        ("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION",),
    ),
    Unneeded(
        "the ports open at once, and connecting to Redis is retried every second",
        ("REDIS_STARTUP_INITIAL_INTERVAL", "REDIS_STARTUP_MAX_INTERVAL"),
    ),
)


def unsupported(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable in `environ` that asks for something missing here.

    Values are never shown.
    """
    return [f"{name} is set, but not supported: {instead}" for name, instead in _asked_for(environ)]


def _asked_for(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variables in UNSUPPORTED:
        switch = environ.get(variables.switch, "true" if variables.switched_on else "")
        if variables.switch and (switch == "" or switch in _OFF):
            continue
        for name, harmless in variables.names.items():
            if environ.get(name, "") not in ("", *harmless):
                yield name, variables.instead
