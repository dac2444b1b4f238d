"""Every metric that a scrape shows: docs/metrics.md is made from it, and a test compares a scrape with it.

Names are upstream's where upstream has the metric, so that dashboards made for it go on working: none ends in
`_total`, and ours follow suit. The `process_*` metrics of prometheus-client are shown beside these.
"""

from __future__ import annotations

from .events import EVENT_METRICS
from .holds import HOLD_METRICS, HOLDS_REFUSED
from .ledger import LEDGER_MISSED
from .metric_info import Join, Kind, MetricInfo
from .tracing import TRACING_METRICS
from .tracked import TRACKED_METRICS
from .workers import WORKER_METRICS
from .xds import XDS_METRICS

_LIMIT = ("domain", "key1", "key2")
_RULE = ("domain", "rule", "path", "unit", "window")

CATALOGUE: tuple[MetricInfo, ...] = (
    # Hits by limit. key1 and key2 are the first two levels of the descriptor, `key` or `key_value` as in the
    # rule. Deeper levels are summed into these; without a second level there is no key2.
    MetricInfo(
        "ratelimit_service_rate_limit_total_hits",
        Kind.COUNTER,
        _LIMIT,
        "Hits on a limit, independent of the answer, including hits that the store failed to count.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_rate_limit_within_limit",
        Kind.COUNTER,
        _LIMIT,
        "Hits of descriptors within their limit.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_rate_limit_near_limit",
        Kind.COUNTER,
        _LIMIT,
        "Hits between NEAR_LIMIT_RATIO of the limit and the limit.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_rate_limit_over_limit",
        Kind.COUNTER,
        _LIMIT,
        "Hits beyond the limit.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_rate_limit_shadow_mode",
        Kind.COUNTER,
        _LIMIT,
        "Hits beyond a limit in shadow mode, which were allowed.",
        upstream=True,
    ),
    # Not in upstream. They are not part of its five metrics, so that their sums mean the same as there.
    MetricInfo("ratelimit_service_rate_limit_negative_hits", Kind.COUNTER, _LIMIT, "Refunded hits."),
    MetricInfo(
        "ratelimit_service_rate_limit_unlimited_hits",
        Kind.COUNTER,
        _LIMIT,
        "Hits on unlimited rules.",
    ),
    # Hits by rule: the path of the rule, not the values that matched it. `rule` equals `path`, and `unit`
    # equals `window`; `path` and `window` join these metrics with `budget_` metrics. All limits that requests
    # bring are `override`, so that values from requests cannot use up the series of the rules.
    MetricInfo(
        "ratelimit_service_rule_hits",
        Kind.COUNTER,
        _RULE,
        "Hits on a rule.",
    ),
    MetricInfo(
        "ratelimit_service_rule_refused",
        Kind.COUNTER,
        _RULE,
        "Descriptors that exceeded this window of a rule.",
    ),
    MetricInfo(
        "ratelimit_service_rule_cost_missing",
        Kind.COUNTER,
        _RULE,
        "Descriptors of a budget without hits_addend: the cost of the request is unknown, and 0 was charged.",
    ),
    # Checks and charges: a passed check without a charge is an answer that is never charged.
    MetricInfo(
        "ratelimit_service_rule_checks",
        Kind.COUNTER,
        _RULE,
        "Checks within their limit, in allowed requests: descriptors with hits 0, or of a budget without "
        "hits_addend. For a rule with several windows, counted in the first, like the next metric.",
    ),
    MetricInfo(
        "ratelimit_service_rule_charges",
        Kind.COUNTER,
        _RULE,
        "Charges: descriptors with hits above 0, independent of the answer.",
    ),
    # The boundaries are those of OpenTelemetry's gen_ai.client.token.usage, so that both can be compared.
    MetricInfo(
        "ratelimit_service_rule_charge_size",
        Kind.HISTOGRAM,
        ("domain", "path", "window"),
        "Charges by their hits, such as tokens, up to 1, 4, 16 … 67108864. For rules that have been charged, "
        "in the first window.",
    ),
    MetricInfo(
        "ratelimit_service_rule_charges_above_max",
        Kind.COUNTER,
        _RULE,
        "Charges and refunds above max_charge, which were bounded by it or refused. "
        "Counted in the first window.",
    ),
    *HOLD_METRICS,
    # For `warn_at` and `track` of a rule. `rule` is the name of the limit, or the path of its rule.
    MetricInfo(
        "ratelimit_service_budget_threshold_crossed",
        Kind.COUNTER,
        ("domain", "rule", "path", "window", "share"),
        "Thresholds of warn_at that were crossed: once for each bucket and window, over all replicas.",
    ),
    MetricInfo(
        "ratelimit_service_budget_threshold_lost",
        Kind.COUNTER,
        (),
        "Crossings that could not be reported because the store failed or was too slow.",
    ),
    *TRACKED_METRICS,
    # Requests.
    MetricInfo(
        "ratelimit_service_decisions",
        Kind.COUNTER,
        ("domain", "outcome"),
        "Requests by outcome: ok, over_limit, error. Domains without a configuration are `unknown`.",
    ),
    MetricInfo(
        "ratelimit_service_should_rate_limit_error",
        Kind.COUNTER,
        ("err_type",),
        "Requests answered with an error: redis_error if the store failed (any store), otherwise "
        "service_error.",
        upstream=True,
    ),
    # Upstream has these two with the value in the name, or under an internal name.
    MetricInfo(
        "ratelimit_service_domain_not_found",
        Kind.COUNTER,
        ("domain",),
        "Requests for a domain without a configuration; they are answered OK.",
    ),
    MetricInfo(
        "ratelimit_service_global_shadow_mode",
        Kind.COUNTER,
        (),
        "Requests allowed only because of SHADOW_MODE.",
    ),
    # The logs.
    MetricInfo(
        "ratelimit_service_refusals_unlogged",
        Kind.COUNTER,
        (),
        "Refusals that the log omits: it remembers 10,000 buckets at a time, to log each once in its window.",
    ),
    MetricInfo(
        "ratelimit_service_log_dropped",
        Kind.COUNTER,
        (),
        "Log lines dropped because they could not be written, or not fast enough.",
    ),
    MetricInfo(
        "ratelimit_service_decision_log_dropped",
        Kind.COUNTER,
        (),
        "Lines of the decision log dropped for the same reasons. Only with DECISION_LOG.",
    ),
    # The gRPC server.
    MetricInfo(
        "ratelimit_service_total_requests",
        Kind.COUNTER,
        ("grpc_method",),
        "Calls of a gRPC method.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_response_time_seconds",
        Kind.HISTOGRAM,
        ("grpc_method",),
        "Time from reading a call to its answer, in seconds, or in the unit of "
        "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_calls_in_hand",
        Kind.GAUGE,
        (),
        "Calls in flight: read and not yet answered.",
        join=Join.SUM,
    ),
    MetricInfo(
        "ratelimit_service_grpc_connections",
        Kind.GAUGE,
        (),
        "Connections to the gRPC port. Only with GRPC_TRANSPORT=native, like the next two.",
        join=Join.SUM,
    ),
    MetricInfo(
        "ratelimit_service_grpc_held_bytes",
        Kind.GAUGE,
        (),
        "Bytes in use by connections, requests and replies, out of GRPC_MAX_BYTES.",
        join=Join.SUM,
    ),
    MetricInfo(
        "ratelimit_service_grpc_connections_closed",
        Kind.COUNTER,
        (),
        "Connections closed because of the behaviour of their peers; the log has the reasons.",
    ),
    # The configuration.
    MetricInfo(
        "ratelimit_service_config_load_success",
        Kind.COUNTER,
        (),
        "Configurations loaded.",
        upstream=True,
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_config_load_error",
        Kind.COUNTER,
        (),
        "Configurations refused; the previous rules stayed in force.",
        upstream=True,
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_config_rejected",
        Kind.GAUGE,
        (),
        "1 while the last configuration is refused and the previous rules are in force, else 0.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_config_load_time_seconds",
        Kind.GAUGE,
        (),
        "When the rules in force were loaded, in Unix seconds; 0 before the first load.",
        join=Join.LEAST,
    ),
    MetricInfo("ratelimit_service_config_rules", Kind.GAUGE, (), "Rules in force.", join=Join.MOST),
    *XDS_METRICS,
    # Amendments (docs/amendments.md).
    MetricInfo(
        "ratelimit_service_amendments", Kind.GAUGE, (), "Amendments in force on this replica.", join=Join.MOST
    ),
    MetricInfo(
        "ratelimit_service_amendments_version",
        Kind.GAUGE,
        (),
        "The version of the amendments in force on this replica; replicas may differ for up to a second.",
        join=Join.LEAST,
    ),
    MetricInfo(
        "ratelimit_service_amendments_age_seconds",
        Kind.GAUGE,
        (),
        "Seconds since this replica last confirmed that its amendments are those of the store.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_amendments_unreadable",
        Kind.GAUGE,
        (),
        "Amendments in the store that only a later version of the service can read; they are not in force.",
        join=Join.MOST,
    ),
    *EVENT_METRICS,
    *TRACING_METRICS,
    *WORKER_METRICS,
    # The process and its store.
    MetricInfo(
        "ratelimit_service_store_seconds",
        Kind.HISTOGRAM,
        (),
        "Round trips to the store, in seconds; one may carry the hits of many requests.",
    ),
    MetricInfo(
        "ratelimit_service_store_deadline_missed",
        Kind.COUNTER,
        (),
        "Requests that got the answer of STORE_FAILURE_MODE because Redis did not answer in time. Only "
        "with BACKEND_TYPE=redis, like the next four.",
    ),
    MetricInfo("ratelimit_service_store_failures", Kind.COUNTER, (), "Failed calls to Redis."),
    MetricInfo(
        "ratelimit_service_store_circuit_open",
        Kind.GAUGE,
        (),
        "1 while the circuit is open: Redis is away and gets only probes. Else 0.",
        join=Join.MOST,
    ),
    MetricInfo(
        "ratelimit_service_store_journal_hits",
        Kind.GAUGE,
        (),
        "Hits in the journal, to be written to Redis.",
        join=Join.SUM,
    ),
    MetricInfo(
        "ratelimit_service_store_journal_dropped",
        Kind.COUNTER,
        (),
        "Hits lost because the journal was full, or because they could not be settled in time.",
    ),
    HOLDS_REFUSED,
    LEDGER_MISSED,
    MetricInfo(
        "ratelimit_service_local_cache_refusals",
        Kind.COUNTER,
        (),
        "Requests refused without a call to Redis. Only with LOCAL_CACHE_SIZE_IN_BYTES.",
    ),
    MetricInfo(
        "ratelimit_service_memory_store_refused",
        Kind.COUNTER,
        (),
        "Hits on new counters while the memory store was full. Only with BACKEND_TYPE=memory.",
    ),
    MetricInfo(
        "ratelimit_service_memory_store_bytes",
        Kind.GAUGE,
        (),
        "Memory of the counters of the memory store, out of MEMORY_STORE_SIZE_IN_BYTES. Only with "
        "BACKEND_TYPE=memory.",
        join=Join.SUM,
    ),
    MetricInfo(
        "ratelimit_service_memory_snapshot_failures",
        Kind.COUNTER,
        (),
        "Failed writes of the snapshot file. Only with MEMORY_SNAPSHOT_PATH.",
    ),
    MetricInfo(
        "ratelimit_service_redis_clock_offset_seconds",
        Kind.GAUGE,
        (),
        "Seconds by which the clock of Redis is ahead of this process; of several servers, the largest "
        "offset. Only with BACKEND_TYPE=redis.",
        join=Join.SUM,
    ),
    MetricInfo(
        "ratelimit_service_background_failures",
        Kind.COUNTER,
        ("task",),
        "Failures of background tasks (reload, health, journal, …); each is logged, and the task is "
        "restarted.",
    ),
    MetricInfo(
        "ratelimit_service_api_requests",
        Kind.COUNTER,
        ("endpoint", "status"),
        "Requests to the API of the debug port, by its path (`other` for paths that do not exist) and the "
        "status of the answer.",
    ),
    MetricInfo(
        "ratelimit_service_healthy",
        Kind.GAUGE,
        (),
        "1 while every component is healthy, else 0.",
        join=Join.LEAST,
    ),
    MetricInfo(
        "ratelimit_service_build_info",
        Kind.GAUGE,
        ("version",),
        "Always 1; the label has the version.",
        join=Join.MOST,
    ),
)

BY_NAME = {info.name: info for info in CATALOGUE}
