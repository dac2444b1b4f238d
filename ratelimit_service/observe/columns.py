"""The columns of the tables that every decision changes: one row for a limit, one for each window of a rule."""

from __future__ import annotations

# The columns of a limit's row.
HITS, WITHIN, NEAR, OVER, SHADOW, NEGATIVE, UNLIMITED = range(7)
LIMIT_METRICS = tuple(
    f"ratelimit_service_rate_limit_{name}"
    for name in (
        "total_hits",
        "within_limit",
        "near_limit",
        "over_limit",
        "shadow_mode",
        "negative_hits",
        "unlimited_hits",
    )
)

EXPECTED_OF_A_LIMIT = (HITS, WITHIN, OVER)

# The columns of a rule's row.
RULE_HITS, RULE_REFUSED, RULE_COST_MISSING, RULE_CHECKS, RULE_CHARGES, RULE_EXCESS = range(6)
EXPECTED_OF_A_RULE = (RULE_HITS, RULE_REFUSED)
EXPECTED_OF_A_BUDGET = (
    RULE_HITS,
    RULE_REFUSED,
    RULE_COST_MISSING,
    RULE_CHECKS,
    RULE_CHARGES,
    RULE_EXCESS,
)
RULE_METRICS = (
    "ratelimit_service_rule_hits",
    "ratelimit_service_rule_refused",
    "ratelimit_service_rule_cost_missing",
    "ratelimit_service_rule_checks",
    "ratelimit_service_rule_charges",
    "ratelimit_service_rule_charges_above_max",
)
