"""The metrics of holds (docs/holds.md)."""

from __future__ import annotations

from .metric_info import Kind, MetricInfo

_RULE = ("domain", "rule", "path", "unit", "window")

HOLD_METRICS: tuple[MetricInfo, ...] = (
    # For a rule with several windows, counted in the first; the overshoot in each.
    MetricInfo("ratelimit_service_rule_holds", Kind.COUNTER, _RULE, "Checks that set tokens aside."),
    MetricInfo("ratelimit_service_rule_held_tokens", Kind.COUNTER, _RULE, "Tokens that checks set aside."),
    MetricInfo(
        "ratelimit_service_rule_holds_ended",
        Kind.COUNTER,
        _RULE,
        "Charges and releases that ended a hold.",
    ),
    MetricInfo(
        "ratelimit_service_rule_holds_expired",
        Kind.COUNTER,
        _RULE,
        "Holds that expired because no charge and no release came, counted by the next request of the "
        "bucket.",
    ),
    MetricInfo(
        "ratelimit_service_rule_refused_in_flight",
        Kind.COUNTER,
        _RULE,
        "Checks that were refused because requests in flight hold the rest of the budget.",
    ),
    MetricInfo(
        "ratelimit_service_rule_overshoot_ratio",
        Kind.HISTOGRAM,
        _RULE,
        "Use beyond the limit as a share of the limit, in windows of rules with holds that ended with no "
        "budget left, as last seen by this process.",
    ),
)

HOLDS_REFUSED = MetricInfo(
    "ratelimit_service_store_holds_refused",
    Kind.COUNTER,
    (),
    "Calls in which Redis refused to read or write holds, for example by an ACL; requests pass as without "
    "holds. Only with BACKEND_TYPE=redis.",
)
