"""The settings of the process: one table of environment variables, each with its default, its meaning and its checks.

A variable that envoyproxy/ratelimit has too has its name, its meaning and its default here; where the default is ours,
the meaning says so. As there, a variable set to nothing is read as nothing and not as unset. docs/settings.md is made
from this table. The environment is read once, by `load_settings`, from the mapping it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from ..core.errors import InvalidSetting
from ..core.text import printable, shorten
from .bounds import BOUNDS, BoundsSettings
from .field import Context, Reader
from .field import setting as _setting
from .redis import MAY_HOLD_SECRET, REDIS, SECRET, RedisSettings
from .refusals import REFUSALS, RefusalSettings
from .tls import TLS, TlsSettings
from .types import (
    Address,
    Bool,
    Duration,
    HeaderName,
    HostPort,
    KeyPrefix,
    Port,
    PositiveDuration,
    Ratio,
    Share,
    Text,
    TextList,
    UrlPath,
    choice,
    host_port,
    one_or_more,
    whole_number,
)
from .unsupported import unsupported
from .xds import HEADERS, XDS, XdsSettings

__all__ = ["SettingDoc", "Settings", "documented", "load_settings", "unsupported"]

SERVER = "gRPC"
HTTP = "HTTP"
METRICS = "Metrics"
LOGGING = "Logging"
RULES = "Configuration files"
COUNTERS = "Counters"
ANSWERS = "Answers"
_GROUPS = (SERVER, HTTP, TLS, METRICS, LOGGING, RULES, XDS, COUNTERS, REDIS, ANSWERS, REFUSALS, BOUNDS)

LogLevel = Literal["trace", "debug", "info", "warning", "error", "fatal", "panic"]

_LEVEL = choice("trace", "debug", "info", "warning", "error", "fatal", "panic", also={"warn": "warning"})
_FORMAT = choice("text", "json", also={"": "text"})
_STORE = choice(
    "memory",
    "redis",
    also={"": "redis"},
    refused={"memcache": "is not supported: give redis or memory"},
)
_TRANSPORT = choice("native", "grpcio", also={"": ""})
_MEANS_REDIS = ("REDIS_URL", "REDIS_TYPE", "REDIS_SOCKET_TYPE")
_LONGEST_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Settings(TlsSettings, RedisSettings, RefusalSettings, BoundsSettings, XdsSettings):
    """Everything that can be set. Durations are seconds. Made by `load_settings`."""

    grpc_host: Text = _setting(
        SERVER,
        "0.0.0.0",
        "The address that the gRPC port listens on; 0.0.0.0, :: or nothing is every address of both families.",
    )
    grpc_port: Port = _setting(SERVER, "8081", "The gRPC port; 0 is any free one.")
    grpc_transport: Annotated[Literal["", "grpcio", "native"], _TRANSPORT] = _setting(
        SERVER,
        "",
        "What speaks gRPC: native, which takes a fraction of the CPU, or grpcio. Unset: native where its compiled module is "
        "there, as in the image and in wheels, else grpcio, with a line in the log. Ours.",
    )
    grpc_uds: Text = _setting(
        SERVER,
        "",
        "The path of a Unix socket to serve gRPC on, in place of the port; one process serves it, which keeps a lock beside it.",
    )
    grpc_max_connection_age: Duration = _setting(
        SERVER,
        "24h",
        "How long a connection is kept before its client is asked to open another; 0 is for ever.",
    )
    grpc_max_connection_age_grace: Duration = _setting(
        SERVER, "1h", "How long after that the calls of the connection may take to end; 0 is for ever."
    )
    grpc_max_concurrent_calls: Annotated[int, whole_number(1)] = _setting(
        SERVER, "10000", "Calls in hand at once; more are refused with RESOURCE_EXHAUSTED. Ours."
    )
    grpc_max_connections: Annotated[int, whole_number(1)] = _setting(
        SERVER,
        "10000",
        "Connections to the gRPC port at once; one more is closed at once. Fewer where the limit of open files is lower. Ours.",
    )
    grpc_max_message_bytes: Annotated[int, whole_number(1)] = _setting(
        SERVER, "4194304", "The largest request that is read. Ours."
    )
    grpc_max_connection_bytes: Annotated[int, whole_number(1)] = _setting(
        SERVER,
        "8388608",
        "The most bytes that one connection may make the native transport keep: requests that have not arrived in full, and "
        "replies that the caller does not take. One request of GRPC_MAX_MESSAGE_BYTES fits in any case. Ours.",
    )
    grpc_max_bytes: Annotated[int, whole_number(1_048_576, 2**40)] = _setting(
        SERVER,
        "134217728",
        "The most bytes that all connections together may make the native transport keep: half of it is for the connections "
        "(16 KiB each, 64 KiB with TLS), a quarter for such requests and replies, a quarter for calls in hand. Ours.",
    )
    grpc_request_timeout: PositiveDuration = _setting(
        SERVER,
        "10s",
        "How long a request may take to arrive in full at the native transport; then it is refused with DEADLINE_EXCEEDED. "
        "Ours.",
    )
    shutdown_drain: Duration = _setting(
        SERVER,
        "0s",
        "How long a process that is told to stop goes on serving while its health is NOT_SERVING. More than gateways take to "
        "notice: interval and timeout of their health checks. Ours.",
    )
    shutdown_grace: Duration = _setting(
        SERVER, "10s", "How long the calls in hand may take to end after that. Ours."
    )

    host: Text = _setting(
        HTTP, "0.0.0.0", "The address that the HTTP port (`/json`, `/healthcheck`) listens on, as GRPC_HOST."
    )
    port: Port = _setting(HTTP, "8080", "The HTTP port; 0 is any free one.")
    debug_host: Text = _setting(
        HTTP,
        "127.0.0.1",
        "The address that the debug port (`/rlconfig`, `/stats`) listens on, as GRPC_HOST. envoyproxy/ratelimit: 0.0.0.0.",
    )
    debug_port: Port = _setting(HTTP, "6070", "The debug port; 0 is any free one.")
    healthy_with_at_least_one_config_loaded: Bool = _setting(
        HTTP, "false", "Whether the service is unhealthy while no domain is loaded."
    )

    use_prometheus: Bool = _setting(
        METRICS, "true", "Whether metrics are served. envoyproxy/ratelimit: false."
    )
    prometheus_addr: Address = _setting(METRICS, ":9090", "Where: host:port; without a host, every address.")
    prometheus_path: UrlPath = _setting(METRICS, "/metrics", "The path that metrics are served under.")
    prometheus_response_time_as_milliseconds: Bool = _setting(
        METRICS, "false", "Whether response times are in milliseconds, under the name that says seconds."
    )
    metrics_max_series: Annotated[int, whole_number(1)] = _setting(
        METRICS,
        "10000",
        "The most series that one metric has; what is beyond them is counted as `other`. Ours.",
    )

    track_max_buckets: Annotated[int, whole_number(1, 10_000)] = _setting(
        METRICS,
        "1000",
        "The most buckets of rules with `track` that metrics show, by share used; others are summed. Ours.",
    )

    log_level: Annotated[LogLevel, _LEVEL] = _setting(
        LOGGING,
        "info",
        "The least that is logged: trace, debug, info, warn (or warning), error, fatal or panic, in any case. "
        "envoyproxy/ratelimit: WARN.",
    )
    log_format: Annotated[Literal["text", "json"], _FORMAT] = _setting(
        LOGGING, "text", "text, or json for an object on each line with `@timestamp`, `level` and `@message`."
    )
    decision_log: Annotated[Literal["off", "refused", "all"], choice("off", "refused", "all")] = _setting(
        LOGGING,
        "off",
        "Which requests are written to stdout, as a JSON object for each descriptor: off, refused or all. Ours.",
    )
    decision_log_sample: Share = _setting(
        LOGGING,
        "1.0",
        "The part of these that is written: a request at random, with all its descriptors. Ours.",
    )

    config_path: TextList = _setting(
        RULES,
        "",
        "Files and directories, separated by commas; a directory means the *.yaml and *.yml files directly in it. "
        "Where it is given, it takes the place of the RUNTIME_ variables. Ours.",
    )
    config_type: Annotated[tuple[str, ...], one_or_more("FILE", "GRPC_XDS_SOTW")] = _setting(
        RULES,
        "FILE",
        "Where rules come from: FILE, GRPC_XDS_SOTW (a control plane), or both, separated by a comma; a domain that both have is "
        "that of the first; both at once is ours.",
    )
    runtime_root: Text = _setting(
        RULES, "/srv/runtime_data/current", "Files are read below RUNTIME_ROOT/RUNTIME_SUBDIRECTORY."
    )
    runtime_subdirectory: Text = _setting(RULES, "", "The directory below RUNTIME_ROOT.")
    runtime_appdirectory: Text = _setting(
        RULES, "config", "The directory below that in which the configuration is."
    )
    runtime_ignoredotfiles: Bool = _setting(
        RULES, "false", "Whether files that begin with a dot are left out."
    )
    runtime_watch_root: Bool = _setting(
        RULES, "true", "Whether RUNTIME_ROOT is watched and searched, or only RUNTIME_APPDIRECTORY in it."
    )
    manifest_domain: Text = _setting(
        RULES, "", "The domain of the rules in a RateLimitConfig manifest, which names none. Ours."
    )
    merge_domain_config: Bool = _setting(
        RULES, "false", "Whether several files may say something about one domain."
    )
    budget_domains: TextList = _setting(
        RULES,
        "",
        "Domains, separated by commas, in which every requests_per_unit is a budget, as tokens_per_unit is. Ours.",
    )
    force_start_without_initial_config: Bool = _setting(
        RULES, "false", "Whether the service is ready before any configuration has been loaded."
    )

    backend_type: Annotated[Literal["memory", "redis"], _STORE] = _setting(
        COUNTERS,
        "memory",
        "Where counters are kept: redis, or memory for one process on its own. "
        f"Unset, it is redis as soon as {', '.join(_MEANS_REDIS[:-1])} or {_MEANS_REDIS[-1]} is set. "
        "envoyproxy/ratelimit: redis.",
    )
    cache_key_prefix: KeyPrefix = _setting(
        COUNTERS,
        "",
        "What every counter's key begins with. With braces in it, such as {rl}:, all keys are in one slot of a Redis Cluster.",
    )
    expiration_jitter_max_seconds: Annotated[int, whole_number(0)] = _setting(
        COUNTERS,
        "300",
        "A counter is kept for a random time below this longer than its window; 0: no longer.",
    )
    local_cache_size_in_bytes: Annotated[int, whole_number(0)] = _setting(
        COUNTERS,
        "0",
        "With Redis: memory for counts of buckets that are used up; requests that meet one are refused without asking, for at "
        "most a second, and charges are counted all the same. 0: every decision asks Redis.",
    )
    near_limit_ratio: Ratio = _setting(
        COUNTERS, "0.8", "The part of a limit from which on hits are counted as near the limit."
    )
    stop_cache_key_increment_when_overlimit: Bool = _setting(
        COUNTERS, "false", "Whether a request that one limit refuses is left uncounted by its other limits."
    )

    memory_snapshot_path: Text = _setting(
        COUNTERS,
        "",
        "The file that the memory store's counters are kept in, so that a start finds them again; empty: none. Ours.",
    )
    memory_snapshot_interval: PositiveDuration = _setting(
        COUNTERS, "1s", "How often that file is written, where something has changed. Ours."
    )

    store_answer_deadline: PositiveDuration = _setting(
        REDIS,
        "500ms",
        "How long a caller that sends no deadline (grpc-timeout) waits for Redis; then it gets the answer of STORE_FAILURE_MODE, "
        "and its hits are counted all the same. Ours.",
    )
    store_answer_margin: Duration = _setting(
        REDIS,
        "10ms",
        "How long before its own deadline a caller that sends one gets that answer, where Redis has not answered by then; at most "
        "half of its time. Envoy waits 20 ms by default. Ours.",
    )
    store_failure_mode: Annotated[Literal["error", "allow", "deny"], choice("error", "allow", "deny")] = (
        _setting(
            REDIS,
            "error",
            "The answer where counters cannot be reached: UNAVAILABLE, on which the gateway's own failure mode decides (error), "
            "OK (allow) or OVER_LIMIT (deny). Ours.",
        )
    )
    store_journal_size: Annotated[int, whole_number(0)] = _setting(
        REDIS,
        "100000",
        "How many hits are kept in memory while Redis is away, and written when it is back. Ours.",
    )

    shadow_mode: Bool = _setting(
        ANSWERS, "false", "Whether nothing is refused, and only the statistics tell."
    )
    quota_mode: Bool = _setting(
        ANSWERS,
        "false",
        "Whether every rule is a quota: a request is refused only where all of them refuse it.",
    )
    limit_response_headers_enabled: Bool = _setting(
        ANSWERS, "false", "Whether answers carry the three headers below."
    )
    limit_limit_header: HeaderName = _setting(
        ANSWERS, "RateLimit-Limit", "The header with the limit; empty: it is not sent."
    )
    limit_remaining_header: HeaderName = _setting(
        ANSWERS, "RateLimit-Remaining", "The header with what is left; empty: it is not sent."
    )
    limit_reset_header: HeaderName = _setting(
        ANSWERS,
        "RateLimit-Reset",
        "The header with the seconds until the window ends; empty: it is not sent.",
    )
    response_dynamic_metadata: Bool = _setting(
        ANSWERS, "false", "Whether answers carry the request and the rules' metadata as dynamic metadata."
    )

    @property
    def backend(self) -> Literal["memory", "redis"]:
        """The store that counters are kept in."""
        return self.backend_type

    @property
    def prometheus_address(self) -> HostPort:
        """Where metrics are served; an empty host is every address of the machine."""
        return host_port(self.prometheus_addr)


class SettingDoc(NamedTuple):
    """A line of the table: `name` of the variable, `default` as one would write it, `meaning`, and its `group`."""

    name: str
    default: str
    meaning: str
    group: str


def documented() -> Iterator[SettingDoc]:
    """Every supported variable, in the order of the groups."""
    lines = [SettingDoc(name=field.name.upper(), **field.metadata) for field in fields(Settings)]
    yield from sorted(lines, key=lambda line: _GROUPS.index(line.group))


def load_settings(environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Settings:
    """The settings that `environ` has; `overrides` (options of the command line, under the same names) win.

    Variables that are no settings are passed over. Raises InvalidSetting with a line for each bad variable.
    """
    given = {**environ, **(overrides or {})}
    if any(name in given for name in _MEANS_REDIS):
        given.setdefault("BACKEND_TYPE", "redis")
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in fields(Settings):
        name = field.name.upper()
        text = given.get(name, field.metadata["default"])
        try:
            values[field.name] = _readers()[field.name](text, Context(field.name, values))
        except ValueError as error:
            problems[name] = _line(name, text, error)
    if problems:
        raise InvalidSetting("\n".join([problems[doc.name] for doc in documented() if doc.name in problems]))
    return Settings(**values)


@cache
def _readers() -> dict[str, Reader]:
    """How each field is read, as its annotation says."""
    hints = get_type_hints(Settings, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(Settings)}


def _line(name: str, text: str, problem: ValueError) -> str:
    unset = "" if text else f", or leave {name} unset"
    return f"{name}{_shown(name, text)} {problem}{unset}"


def _shown(name: str, value: str) -> str:
    if name in SECRET or name == HEADERS or (name in MAY_HOLD_SECRET and any(char in value for char in "@?")):
        return " (not shown)"
    return f'="{printable(shorten(value, _LONGEST_SHOWN))}"'
