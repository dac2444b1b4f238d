"""Each variable of envoyproxy/ratelimit is supported, not needed, or named in a warning."""

from __future__ import annotations

import pytest

from ratelimit_service.settings.table import documented, load_settings
from ratelimit_service.settings.unsupported import UNNEEDED, UNSUPPORTED, unsupported


def test_all_variables_of_agentgateways_deployment_are_supported() -> None:
    """They are those of its original manifest for envoyproxy/ratelimit."""
    environ = {
        "USE_STATSD": "false",
        "LOG_LEVEL": "debug",
        "RUNTIME_ROOT": "/data",
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_IGNOREDOTFILES": "true",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": "redis:6379",
    }
    settings = load_settings(environ)
    assert ("redis", "redis://redis:6379", "debug") == (
        settings.backend_type,
        settings.redis.address,
        settings.log_level,
    )
    assert [] == unsupported(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"USE_STATSD": "false", "STATSD_HOST": "statsd", "STATSD_PORT": "8125"},
        {"TRACING_ENABLED": "true", "TRACING_SERVICE_NAME": "limits"},
        {"DISABLE_STATS": "false"},
        {"REDIS_PIPELINE_WINDOW": "150us", "REDIS_PIPELINE_LIMIT": "8", "REDIS_STARTUP_MAX_INTERVAL": "5s"},
        {"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true", "REDIS_STARTUP_MAX_ELAPSED_TIME": "0s"},
        {"MEMCACHE_HOST_PORT": "", "EXTRA_TAGS": ""},
        {"PATH": "/bin", "HOSTNAME": "pod-1"},
    ],
)
def test_a_variable_that_makes_no_difference_gets_no_warning(environ: dict[str, str]) -> None:
    """It enables something that is always on, disables something that does not exist, or never belonged to
    upstream.
    """
    assert [] == unsupported(environ)


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"USE_STATSD": "true"}, ["USE_STATSD"]),
        ({"STATSD_HOST": "statsd"}, ["STATSD_HOST"]),
        (
            {"USE_DOG_STATSD": "true", "USE_DOG_STATSD_MOGRIFIERS": "x"},
            ["USE_DOG_STATSD", "USE_DOG_STATSD_MOGRIFIERS"],
        ),
        ({"REDIS_STARTUP_MAX_ELAPSED_TIME": "1m"}, ["REDIS_STARTUP_MAX_ELAPSED_TIME"]),
        ({"MEMCACHE_HOST_PORT": "memcached:11211"}, ["MEMCACHE_HOST_PORT"]),
    ],
)
def test_a_variable_without_support_is_named_in_a_warning(environ: dict[str, str], names: list[str]) -> None:
    """Each has one line with an alternative, and without its value."""
    lines = unsupported(environ)
    assert names == [line.partition(" is set, but not supported: ")[0] for line in lines]
    assert not any(f"={value}" in line for line in lines for value in environ.values())


UPSTREAM = [
    "HOST",
    "PORT",
    "DEBUG_HOST",
    "DEBUG_PORT",
    "GRPC_UDS",
    "GRPC_HOST",
    "GRPC_PORT",
    "GRPC_MAX_CONNECTION_AGE",
    "GRPC_MAX_CONNECTION_AGE_GRACE",
    "GRPC_SERVER_USE_TLS",
    "GRPC_SERVER_TLS_CERT",
    "GRPC_SERVER_TLS_KEY",
    "GRPC_CLIENT_TLS_CACERT",
    "GRPC_CLIENT_TLS_SAN",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "CONFIG_TYPE",
    "FORCE_START_WITHOUT_INITIAL_CONFIG",
    "CONFIG_GRPC_XDS_NODE_ID",
    "CONFIG_GRPC_XDS_NODE_METADATA",
    "CONFIG_GRPC_XDS_SERVER_URL",
    "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL",
    "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT",
    "CONFIG_GRPC_XDS_SERVER_TLS_SAN",
    "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL",
    "XDS_CLIENT_BACKOFF_MAX_INTERVAL",
    "XDS_CLIENT_BACKOFF_RANDOM_FACTOR",
    "XDS_CLIENT_BACKOFF_JITTER",
    "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
    "USE_DOG_STATSD",
    "USE_DOG_STATSD_MOGRIFIERS",
    "USE_STATSD",
    "STATSD_HOST",
    "STATSD_PORT",
    "EXTRA_TAGS",
    "STATS_FLUSH_INTERVAL",
    "DISABLE_STATS",
    "USE_PROMETHEUS",
    "PROMETHEUS_ADDR",
    "PROMETHEUS_PATH",
    "PROMETHEUS_MAPPER_YAML",
    "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS",
    "RUNTIME_ROOT",
    "RUNTIME_SUBDIRECTORY",
    "RUNTIME_APPDIRECTORY",
    "RUNTIME_IGNOREDOTFILES",
    "RUNTIME_WATCH_ROOT",
    "EXPIRATION_JITTER_MAX_SECONDS",
    "LOCAL_CACHE_SIZE_IN_BYTES",
    "NEAR_LIMIT_RATIO",
    "CACHE_KEY_PREFIX",
    "BACKEND_TYPE",
    "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT",
    "LIMIT_RESPONSE_HEADERS_ENABLED",
    "LIMIT_LIMIT_HEADER",
    "LIMIT_REMAINING_HEADER",
    "LIMIT_RESET_HEADER",
    "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED",
    "REDIS_SOCKET_TYPE",
    "REDIS_TYPE",
    "REDIS_URL",
    "REDIS_POOL_SIZE",
    "REDIS_AUTH",
    "REDIS_TLS",
    "REDIS_TLS_CLIENT_CERT",
    "REDIS_TLS_CLIENT_KEY",
    "REDIS_TLS_CACERT",
    "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
    "REDIS_PIPELINE_WINDOW",
    "REDIS_PIPELINE_LIMIT",
    "REDIS_CLUSTER_PIPELINE_PARALLELISM",
    "REDIS_PERSECOND",
    "REDIS_PERSECOND_SOCKET_TYPE",
    "REDIS_PERSECOND_TYPE",
    "REDIS_PERSECOND_URL",
    "REDIS_PERSECOND_POOL_SIZE",
    "REDIS_PERSECOND_AUTH",
    "REDIS_PERSECOND_TLS",
    "REDIS_SENTINEL_AUTH",
    "REDIS_PERSECOND_SENTINEL_AUTH",
    "REDIS_PERSECOND_PIPELINE_WINDOW",
    "REDIS_PERSECOND_PIPELINE_LIMIT",
    "REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM",
    "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION",
    "REDIS_TIMEOUT",
    "REDIS_PERSECOND_TIMEOUT",
    "REDIS_POOL_ON_EMPTY_BEHAVIOR",
    "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR",
    "REDIS_STARTUP_INITIAL_INTERVAL",
    "REDIS_STARTUP_MAX_INTERVAL",
    "REDIS_STARTUP_MAX_ELAPSED_TIME",
    "MEMCACHE_HOST_PORT",
    "MEMCACHE_MAX_IDLE_CONNS",
    "MEMCACHE_SRV",
    "MEMCACHE_SRV_REFRESH",
    "MEMCACHE_TLS",
    "MEMCACHE_TLS_CLIENT_CERT",
    "MEMCACHE_TLS_CLIENT_KEY",
    "MEMCACHE_TLS_CACERT",
    "MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION",
    "SHADOW_MODE",
    "QUOTA_MODE",
    "RESPONSE_DYNAMIC_METADATA",
    "MERGE_DOMAIN_CONFIG",
    "TRACING_ENABLED",
    "TRACING_SERVICE_NAME",
    "TRACING_SERVICE_NAMESPACE",
    "TRACING_SERVICE_INSTANCE_ID",
    "TRACING_EXPORTER_PROTOCOL",
    "TRACING_SAMPLING_RATE",
]


def test_every_variable_of_upstream_is_supported_or_not_needed_or_warned_about() -> None:
    """Each is in exactly one of these groups."""
    supported = [doc.name for doc in documented()]
    unneeded = [name for variables in UNNEEDED for name in variables.names]
    warned = [name for variables in UNSUPPORTED for name in variables.names]
    assert [] == [name for name in UPSTREAM if [*supported, *unneeded, *warned].count(name) != 1]


def test_the_docs_mark_every_setting_that_upstream_lacks() -> None:
    """So an operator who goes back knows which settings upstream will ignore."""
    ours = [doc.name for doc in documented() if doc.meaning.endswith(" Ours.")]
    assert [doc.name for doc in documented() if doc.name not in UPSTREAM] == ours
