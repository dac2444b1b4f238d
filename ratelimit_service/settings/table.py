"""The table of settings: environment variables, each with its type, default and documentation.

A variable that envoyproxy/ratelimit has as well has the same name, meaning and default here; if the default
differs, the documentation names upstream's. As there, an empty variable is an empty text, not an unset
variable. docs/settings.md is generated from this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from ..core.errors import InvalidSetting
from ..core.text import printable, shorten
from .api import API, API_SECRET, ApiSettings
from .bounds import BOUNDS, BoundsSettings
from .events import EVENT_SECRET, EVENTS, EventSettings
from .field import Context, Reader, setting
from .metrics import METRICS, MetricsSettings
from .redis import MAY_HOLD_SECRET, REDIS, SECRET, RedisSettings
from .refusals import REFUSALS, RefusalSettings
from .tls import TLS, TlsSettings
from .tracing import TRACING, TracingSettings
from .types import (
    Bool,
    Duration,
    HeaderName,
    KeyPrefix,
    Port,
    PositiveDuration,
    Ratio,
    Share,
    Text,
    TextList,
    choice,
    one_or_more,
    whole_number,
    workers,
)
from .xds import HEADERS, XDS, XdsSettings

SERVER = "gRPC"
HTTP = "HTTP"
LOGGING = "Logging"
RULES = "Configuration files"
COUNTERS = "Counters"
ANSWERS = "Answers"
_GROUPS: tuple[str, ...] = (SERVER, HTTP, API, EVENTS, TLS, METRICS, TRACING, LOGGING, RULES, XDS)
_GROUPS += (COUNTERS, REDIS, ANSWERS, REFUSALS, BOUNDS)

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
class Settings(
    ApiSettings,
    EventSettings,
    MetricsSettings,
    TlsSettings,
    TracingSettings,
    RedisSettings,
    RefusalSettings,
    BoundsSettings,
    XdsSettings,
):
    """All settings. Durations are in seconds. `load_settings` makes them."""

    grpc_host: Text = setting(
        SERVER,
        "0.0.0.0",
        "The address of the gRPC port. 0.0.0.0, :: and an empty value mean every address of both families.",
    )
    grpc_port: Port = setting(SERVER, "8081", "The gRPC port; 0 is any free one.")
    grpc_transport: Annotated[Literal["", "grpcio", "native"], _TRANSPORT] = setting(
        SERVER,
        "",
        "The gRPC server: native, which takes a fraction of the CPU, or grpcio. "
        "Unset: native if its compiled module is installed, as in the image and in wheels; "
        "otherwise grpcio, with a log line. Ours.",
    )
    grpc_uds: Text = setting(
        SERVER,
        "",
        "The path of a Unix socket that replaces the gRPC port. One process owns it, by a lock file "
        "beside it.",
    )
    grpc_max_connection_age: Duration = setting(
        SERVER,
        "24h",
        "The age at which a connection is closed after its calls (GOAWAY); 0 is no limit.",
    )
    grpc_max_connection_age_grace: Duration = setting(
        SERVER, "1h", "How long the calls of such a connection may take; 0 is no limit."
    )
    grpc_max_concurrent_calls: Annotated[int, whole_number(1)] = setting(
        SERVER, "10000", "The most calls in flight; further calls are refused with RESOURCE_EXHAUSTED. Ours."
    )
    grpc_max_connections: Annotated[int, whole_number(1)] = setting(
        SERVER,
        "10000",
        "The most connections to the gRPC port; further ones are closed at once. Lower if the limit of "
        "open files is. Ours.",
    )
    grpc_max_message_bytes: Annotated[int, whole_number(1)] = setting(
        SERVER, "4194304", "The largest request that is read. Ours."
    )
    grpc_max_connection_bytes: Annotated[int, whole_number(1)] = setting(
        SERVER,
        "8388608",
        "The most bytes that the native transport keeps for one connection: incomplete requests, and "
        "replies that the peer does not read. One request of GRPC_MAX_MESSAGE_BYTES always fits. Ours.",
    )
    grpc_max_bytes: Annotated[int, whole_number(1_048_576, 2**40)] = setting(
        SERVER,
        "67108864",
        "The most bytes that the native transport keeps for all connections: half for the connections "
        "themselves (16 KiB each, 64 KiB with TLS), a quarter for such requests and replies, "
        "a quarter for calls in flight. Ours.",
    )
    grpc_request_timeout: PositiveDuration = setting(
        SERVER,
        "10s",
        "How long the native transport waits for the rest of a request; then it refuses the call with "
        "DEADLINE_EXCEEDED. Ours.",
    )
    workers: Annotated[int, workers] = setting(
        SERVER,
        "1",
        "The processes that serve (docs/workers.md): a number, or auto for one a CPU. "
        "More than 1 needs Redis. Ours.",
    )
    shutdown_drain: Duration = setting(
        SERVER,
        "0s",
        "How long the service keeps serving after SIGTERM while its health is NOT_SERVING. It should "
        "exceed the interval and the timeout of the gateways' health checks. Ours.",
    )
    shutdown_grace: Duration = setting(SERVER, "10s", "How long calls in flight may take after that. Ours.")

    host: Text = setting(
        HTTP, "0.0.0.0", "The address of the HTTP port (`/json`, `/healthcheck`), as GRPC_HOST."
    )
    port: Port = setting(HTTP, "8080", "The HTTP port; 0 is any free one.")
    debug_host: Text = setting(
        HTTP,
        "127.0.0.1",
        "The address of the debug port (`/rlconfig`, `/stats`, `/api/v1`), as GRPC_HOST. "
        "envoyproxy/ratelimit: 0.0.0.0.",
    )
    debug_port: Port = setting(HTTP, "6070", "The debug port; 0 is any free one.")
    healthy_with_at_least_one_config_loaded: Bool = setting(
        HTTP, "false", "Whether the service is unhealthy while no domain is loaded."
    )

    log_level: Annotated[LogLevel, _LEVEL] = setting(
        LOGGING,
        "info",
        "The lowest level that is logged: trace, debug, info, warn (or warning), error, fatal or panic, "
        "in upper or lower case. envoyproxy/ratelimit: WARN.",
    )
    log_format: Annotated[Literal["text", "json"], _FORMAT] = setting(
        LOGGING, "text", "text, or json: an object with `@timestamp`, `level` and `@message` on each line."
    )
    decision_log: Annotated[Literal["off", "refused", "all"], choice("off", "refused", "all")] = setting(
        LOGGING,
        "off",
        "The requests that are written to stdout, as one JSON object for each descriptor: off, refused or"
        " all. Ours.",
    )
    decision_log_sample: Share = setting(
        LOGGING,
        "1.0",
        "The share of these requests that is written, chosen at random, each with all its descriptors. Ours.",
    )

    config_path: TextList = setting(
        RULES,
        "",
        "Files and directories, separated by commas. A directory means the *.yaml and *.yml files "
        "directly in it. Replaces the RUNTIME_ variables. Ours.",
    )
    config_type: Annotated[tuple[str, ...], one_or_more("FILE", "GRPC_XDS_SOTW")] = setting(
        RULES,
        "FILE",
        "The sources of rules: FILE, GRPC_XDS_SOTW (a control plane), or both, separated by a comma. For "
        "a domain that both have, the first one takes precedence. Both at once is ours.",
    )
    runtime_root: Text = setting(
        RULES, "/srv/runtime_data/current", "Files are read below RUNTIME_ROOT/RUNTIME_SUBDIRECTORY."
    )
    runtime_subdirectory: Text = setting(RULES, "", "The directory below RUNTIME_ROOT.")
    runtime_appdirectory: Text = setting(RULES, "config", "The directory with the configuration, below that.")
    runtime_ignoredotfiles: Bool = setting(
        RULES, "false", "Whether files whose names begin with a dot are ignored."
    )
    runtime_watch_root: Bool = setting(
        RULES,
        "true",
        "Whether all of RUNTIME_ROOT is watched and searched, rather than only RUNTIME_APPDIRECTORY in it.",
    )
    manifest_domain: Text = setting(
        RULES, "", "The domain of the rules in RateLimitConfig manifests, which name none. Ours."
    )
    merge_domain_config: Bool = setting(
        RULES, "false", "Whether several files may have rules for the same domain."
    )
    budget_domains: TextList = setting(
        RULES,
        "",
        "Domains, separated by commas, in which every requests_per_unit is a budget, like "
        "tokens_per_unit. Ours.",
    )
    force_start_without_initial_config: Bool = setting(
        RULES, "false", "Whether the service is ready before the first configuration is loaded."
    )

    backend_type: Annotated[Literal["memory", "redis"], _STORE] = setting(
        COUNTERS,
        "memory",
        "Where counters are kept: redis, or memory (of one process). If unset, it is redis as soon as "
        "REDIS_URL, REDIS_TYPE or REDIS_SOCKET_TYPE is set. envoyproxy/ratelimit: redis.",
    )
    cache_key_prefix: KeyPrefix = setting(
        COUNTERS,
        "",
        "The prefix of every counter key. A prefix with braces, such as {rl}:, puts all keys into one "
        "slot of a Redis Cluster.",
    )
    expiration_jitter_max_seconds: Annotated[int, whole_number(0)] = setting(
        COUNTERS,
        "300",
        "A counter outlives its window by a random time below this; 0: by none.",
    )
    local_cache_size_in_bytes: Annotated[int, whole_number(0)] = setting(
        COUNTERS,
        "0",
        "With Redis: memory for the counts of exhausted buckets. Requests for such a bucket are refused "
        "without a call to Redis for at most a second; charges are still counted. 0: every decision calls "
        "Redis.",
    )
    near_limit_ratio: Ratio = setting(
        COUNTERS, "0.8", "The share of a limit above which hits count as near the limit."
    )
    stop_cache_key_increment_when_overlimit: Bool = setting(
        COUNTERS, "false", "Whether a request that one limit refuses is not counted by its other limits."
    )

    memory_snapshot_path: Text = setting(
        COUNTERS,
        "",
        "The file that keeps the counters of the memory store across restarts; empty: none. Ours.",
    )
    memory_snapshot_interval: PositiveDuration = setting(
        COUNTERS, "1s", "How often that file is written if counters have changed. Ours."
    )

    store_answer_deadline: PositiveDuration = setting(
        REDIS,
        "500ms",
        "How long a caller without a deadline (grpc-timeout) waits for Redis before it gets the answer of"
        " STORE_FAILURE_MODE. Its hits are still counted. Ours.",
    )
    store_answer_margin: Duration = setting(
        REDIS,
        "10ms",
        "How long before its deadline a caller gets that answer; at most half of its timeout. Envoy's "
        "default timeout is 20 ms. Ours.",
    )
    store_failure_mode: Annotated[Literal["error", "allow", "deny"], choice("error", "allow", "deny")] = (
        setting(
            REDIS,
            "error",
            "The answer while the store fails: UNAVAILABLE, so that the failure mode of the gateway decides "
            "(error), OK (allow) or OVER_LIMIT (deny). Ours.",
        )
    )
    store_journal_size: Annotated[int, whole_number(0)] = setting(
        REDIS,
        "100000",
        "The most hits that are kept in memory while Redis is away, and written when it is back. Ours.",
    )

    shadow_mode: Bool = setting(
        ANSWERS, "false", "Whether nothing is refused; only statistics show what would be."
    )
    quota_mode: Bool = setting(
        ANSWERS,
        "false",
        "Whether every rule is a quota: a request is refused only if all its rules refuse it.",
    )
    limit_response_headers_enabled: Bool = setting(
        ANSWERS, "false", "Whether answers have the three headers below."
    )
    limit_limit_header: HeaderName = setting(
        ANSWERS, "RateLimit-Limit", "The name of the header with the limit; empty: not sent."
    )
    limit_remaining_header: HeaderName = setting(
        ANSWERS, "RateLimit-Remaining", "The name of the header with the remaining requests; empty: not sent."
    )
    limit_reset_header: HeaderName = setting(
        ANSWERS,
        "RateLimit-Reset",
        "The name of the header with the seconds until the window ends; empty: not sent.",
    )
    response_dynamic_metadata: Bool = setting(
        ANSWERS,
        "false",
        "Whether answers have the request and the metadata of the rules as dynamic metadata.",
    )


class SettingDoc(NamedTuple):
    """A line of the documentation. `default` is written as in the environment."""

    name: str
    default: str
    meaning: str
    group: str


def documented() -> Iterator[SettingDoc]:
    """Yield every supported variable, in the order of the groups."""
    lines = [SettingDoc(name=field.name.upper(), **field.metadata) for field in fields(Settings)]
    yield from sorted(lines, key=lambda line: _GROUPS.index(line.group))


def load_settings(environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of `environ`, overridden by `overrides` (options of the command line, by the same
    names).

    Other variables are ignored. Raises InvalidSetting with a line for each invalid variable.
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
    """Return the reader of each field, from its annotation."""
    hints = get_type_hints(Settings, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(Settings)}


def _line(name: str, text: str, problem: ValueError) -> str:
    unset = "" if text else f", or leave {name} unset"
    return f"{name}{_shown(name, text)} {problem}{unset}"


def _shown(name: str, value: str) -> str:
    may_hold = name in MAY_HOLD_SECRET and any(char in value for char in "@?")
    if may_hold or name in (SECRET | API_SECRET | EVENT_SECRET | {HEADERS}):
        return " (not shown)"
    return f'="{printable(shorten(value, _LONGEST_SHOWN))}"'
