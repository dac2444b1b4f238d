"""Every metric that a scrape shows: docs/metrics.md is made from it, and a test compares a scrape with it.

Names are upstream's where upstream has the metric, so that dashboards made for it go on working: none ends in
`_total`, and ours follow suit. The `process_*` metrics of prometheus-client are shown beside these.
"""

from __future__ import annotations

from .catalogue_xds import XDS_METRICS
from .info import Kind, MetricInfo

_LIMIT = ("domain", "key1", "key2")
_RULE = ("domain", "rule", "path", "unit", "window")
_TRACKED = ("domain", "rule", "path", "bucket", "window")

CATALOGUE: tuple[MetricInfo, ...] = (
    # What became of hits, by limit. key1 and key2 are the first two levels of the descriptor, `key` or
    # `key_value` as the rule has them; deeper levels are summed into these, and key2 is not there where there
    # is only one.
    MetricInfo(
        "ratelimit_service_rate_limit_total_hits",
        Kind.COUNTER,
        _LIMIT,
        "Hits on a limit, whatever the verdict; also those that the store then failed to count.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_rate_limit_within_limit",
        Kind.COUNTER,
        _LIMIT,
        "Hits of descriptors that were within their limit.",
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
        "Hits beyond a limit in shadow mode, which were let through.",
        upstream=True,
    ),
    # What upstream does not count. Kept out of its five, so that their sums mean what they mean there.
    MetricInfo(
        "ratelimit_service_rate_limit_negative_hits", Kind.COUNTER, _LIMIT, "Hits that were given back."
    ),
    MetricInfo(
        "ratelimit_service_rate_limit_unlimited_hits",
        Kind.COUNTER,
        _LIMIT,
        "Hits on rules that are unlimited.",
    ),
    # The same by rule: the whole path of the rule, not the values that matched it. `rule` and `path`, and `unit` and
    # `window`, are the same here: `budget_` metrics have the second of each, by which they can be joined. Limits that requests bring
    # with them are all `override`, so that a stranger's values cannot crowd out the configuration's rules.
    MetricInfo(
        "ratelimit_service_rule_hits",
        Kind.COUNTER,
        _RULE,
        "Hits on a rule: its path with the domain in front, and the unit of its window.",
    ),
    MetricInfo(
        "ratelimit_service_rule_refused",
        Kind.COUNTER,
        _RULE,
        "Descriptors that found no room in this window of a rule.",
    ),
    MetricInfo(
        "ratelimit_service_rule_cost_missing",
        Kind.COUNTER,
        _RULE,
        "Descriptors of a budget that came without hits_addend: what the request cost is not known, and 0 was charged.",
    ),
    # Which of these are of a kind: a check that passes, and that no charge follows, is an answer that nobody pays for.
    MetricInfo(
        "ratelimit_service_rule_checks",
        Kind.COUNTER,
        _RULE,
        "Descriptors that came with hits 0, or a budget's without any, and passed, in requests that were let through. Of a rule "
        "with several windows in the first one, as the next.",
    ),
    MetricInfo(
        "ratelimit_service_rule_charges",
        Kind.COUNTER,
        _RULE,
        "Descriptors that came with hits above 0, whatever the verdict.",
    ),
    # What `warn_at` and `track` of a rule ask for. `rule` is the name of the limit, or else the path of its rule.
    MetricInfo(
        "ratelimit_service_budget_threshold_crossed",
        Kind.COUNTER,
        ("domain", "rule", "path", "window", "share"),
        "Times that a share named in warn_at was used up: once for each bucket and window, in all replicas together.",
    ),
    MetricInfo(
        "ratelimit_service_budget_threshold_lost",
        Kind.COUNTER,
        (),
        "Times that this could not be told, because the store failed or was too slow.",
    ),
    MetricInfo(
        "ratelimit_service_budget_used",
        Kind.GAUGE,
        _TRACKED,
        "What is used of a bucket of a rule with track, as this process has seen it last.",
    ),
    MetricInfo("ratelimit_service_budget_limit", Kind.GAUGE, _TRACKED, "The limit that it counts against."),
    MetricInfo(
        "ratelimit_service_budget_seconds_to_reset",
        Kind.GAUGE,
        _TRACKED,
        "Seconds until its window ends; not there for `other`.",
    ),
    MetricInfo(
        "ratelimit_service_budget_window_seconds",
        Kind.GAUGE,
        _TRACKED,
        "Seconds from the beginning of its window to the end; not there for `other`.",
    ),
    # Requests.
    MetricInfo(
        "ratelimit_service_decisions",
        Kind.COUNTER,
        ("domain", "outcome"),
        "Requests by outcome: ok, over_limit, error. Domains that no configuration has are `unknown`.",
    ),
    MetricInfo(
        "ratelimit_service_should_rate_limit_error",
        Kind.COUNTER,
        ("err_type",),
        "Requests answered with an error: redis_error for the store, whichever it is, else service_error.",
        upstream=True,
    ),
    # Upstream writes these two with the value inside the name, or under a name of its internals.
    MetricInfo(
        "ratelimit_service_domain_not_found",
        Kind.COUNTER,
        ("domain",),
        "Requests for a domain that no configuration has; they are answered OK.",
    ),
    MetricInfo(
        "ratelimit_service_global_shadow_mode",
        Kind.COUNTER,
        (),
        "Requests that only SHADOW_MODE let through.",
    ),
    # The logs.
    MetricInfo(
        "ratelimit_service_refusals_unlogged",
        Kind.COUNTER,
        (),
        "Refusals of buckets for which the log has no room: it tells of 10,000 at a time, each once in its window.",
    ),
    MetricInfo(
        "ratelimit_service_log_dropped",
        Kind.COUNTER,
        (),
        "Lines of the log that could not be written, or not as fast as they came.",
    ),
    MetricInfo(
        "ratelimit_service_decision_log_dropped",
        Kind.COUNTER,
        (),
        "Lines of the decision log that could not be written, or not as fast as they came. There with DECISION_LOG.",
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
        "From reading a call to its answer: seconds, or as PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS says.",
        upstream=True,
    ),
    MetricInfo("ratelimit_service_calls_in_hand", Kind.GAUGE, (), "Calls read and not yet answered."),
    MetricInfo(
        "ratelimit_service_grpc_connections",
        Kind.GAUGE,
        (),
        "Connections to the gRPC port. There with GRPC_TRANSPORT=native, as the next two.",
    ),
    MetricInfo(
        "ratelimit_service_grpc_held_bytes",
        Kind.GAUGE,
        (),
        "Bytes that connections, requests and replies take at the moment, of GRPC_MAX_BYTES.",
    ),
    MetricInfo(
        "ratelimit_service_grpc_connections_closed",
        Kind.COUNTER,
        (),
        "Connections that were closed because of what the caller did, or did not do; the log has the reasons.",
    ),
    # The configuration.
    MetricInfo(
        "ratelimit_service_config_load_success",
        Kind.COUNTER,
        (),
        "Configurations loaded.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_config_load_error",
        Kind.COUNTER,
        (),
        "Configurations refused; the rules before stayed in force.",
        upstream=True,
    ),
    MetricInfo(
        "ratelimit_service_config_rejected",
        Kind.GAUGE,
        (),
        "1 while what was read last was refused, and the rules before it are in force; else 0.",
    ),
    MetricInfo(
        "ratelimit_service_config_load_time_seconds",
        Kind.GAUGE,
        (),
        "When the rules in force were loaded, in seconds since 1970; 0 before the first.",
    ),
    MetricInfo("ratelimit_service_config_rules", Kind.GAUGE, (), "Rules in force."),
    *XDS_METRICS,
    # Amendments (docs/amendments.md), as this replica has them in force.
    MetricInfo("ratelimit_service_amendments", Kind.GAUGE, (), "Amendments in force on this replica."),
    MetricInfo(
        "ratelimit_service_amendments_version",
        Kind.GAUGE,
        (),
        "The version of the amendments that is in force on this replica; the same on all of them, up to a second.",
    ),
    MetricInfo(
        "ratelimit_service_amendments_age_seconds",
        Kind.GAUGE,
        (),
        "Seconds since this replica has last seen that its amendments are those of the store.",
    ),
    MetricInfo(
        "ratelimit_service_amendments_unreadable",
        Kind.GAUGE,
        (),
        "Amendments in the store that only a later version of the service knows, and that are not in force here.",
    ),
    # The process and its store.
    MetricInfo(
        "ratelimit_service_store_seconds",
        Kind.HISTOGRAM,
        (),
        "One round trip to the store, in seconds; it may carry the hits of many requests.",
    ),
    MetricInfo(
        "ratelimit_service_store_deadline_missed",
        Kind.COUNTER,
        (),
        "Requests that got the failure mode's answer because they could not wait longer for Redis. "
        "There with BACKEND_TYPE=redis, as the next four.",
    ),
    MetricInfo("ratelimit_service_store_failures", Kind.COUNTER, (), "Calls to Redis that failed."),
    MetricInfo(
        "ratelimit_service_store_circuit_open",
        Kind.GAUGE,
        (),
        "1 while Redis is away and nothing but a probe is sent to it, else 0.",
    ),
    MetricInfo(
        "ratelimit_service_store_journal_hits", Kind.GAUGE, (), "Hits that are still to be written to Redis."
    ),
    MetricInfo(
        "ratelimit_service_store_journal_dropped",
        Kind.COUNTER,
        (),
        "Hits that were lost: the journal was full, or they could not be settled in time.",
    ),
    MetricInfo(
        "ratelimit_service_local_cache_refusals",
        Kind.COUNTER,
        (),
        "Requests that were refused without asking Redis. There with LOCAL_CACHE_SIZE_IN_BYTES.",
    ),
    MetricInfo(
        "ratelimit_service_memory_store_refused",
        Kind.COUNTER,
        (),
        "Hits on new counters that met a full memory store. There with BACKEND_TYPE=memory.",
    ),
    MetricInfo(
        "ratelimit_service_memory_store_bytes",
        Kind.GAUGE,
        (),
        "Memory that the counters of the memory store take, of MEMORY_STORE_SIZE_IN_BYTES. There with BACKEND_TYPE=memory.",
    ),
    MetricInfo(
        "ratelimit_service_memory_snapshot_failures",
        Kind.COUNTER,
        (),
        "Times that the memory store's counters could not be written to their file. There with MEMORY_SNAPSHOT_PATH.",
    ),
    MetricInfo(
        "ratelimit_service_redis_clock_offset_seconds",
        Kind.GAUGE,
        (),
        "Seconds by which the clock of Redis is ahead of ours; of several servers, that of the one that is off the most. "
        "There with BACKEND_TYPE=redis.",
    ),
    MetricInfo(
        "ratelimit_service_background_failures",
        Kind.COUNTER,
        ("task",),
        "Failures of work beside the calls (reloading, health, the journal, …); it is logged, and started again.",
    ),
    MetricInfo("ratelimit_service_healthy", Kind.GAUGE, (), "1 while every component is healthy, else 0."),
    MetricInfo(
        "ratelimit_service_build_info", Kind.GAUGE, ("version",), "Always 1; the label is the version."
    ),
)

BY_NAME = {info.name: info for info in CATALOGUE}
