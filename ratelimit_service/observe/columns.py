"""The columns of the tables that every decision changes: one row for a limit, one for each window of a
rule.
"""

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

# The columns of a rule's row. From RULE_CHARGES on there is one for each bucket of the histogram of charges:
# the number of charges is their sum, so that a charge changes no more columns than without a histogram.
RULE_HITS, RULE_REFUSED, RULE_COST_MISSING, RULE_CHECKS, RULE_EXCESS, RULE_CHARGES = range(6)

CHARGE_BOUNDS = tuple(float(4**power) for power in range(14))
"""The upper bounds of the buckets: those of OpenTelemetry's gen_ai.client.token.usage."""

CHARGE_COLUMNS = tuple(
    RULE_CHARGES + min((bits + 1) // 2, len(CHARGE_BOUNDS)) for bits in range((2**64).bit_length())
)
"""The column of a charge, by the length of the charge - 1 in bits: (4^n - 1) has 2n of them."""

RULE_COLUMNS = RULE_CHARGES + len(CHARGE_BOUNDS) + 1
EXPECTED_OF_A_RULE = (RULE_HITS, RULE_REFUSED)
EXPECTED_OF_A_BUDGET = (
    RULE_HITS,
    RULE_REFUSED,
    RULE_COST_MISSING,
    RULE_CHECKS,
    RULE_EXCESS,
    RULE_CHARGES,
)
RULE_METRICS = (
    "ratelimit_service_rule_hits",
    "ratelimit_service_rule_refused",
    "ratelimit_service_rule_cost_missing",
    "ratelimit_service_rule_checks",
    "ratelimit_service_rule_charges_above_max",
    "ratelimit_service_rule_charges",
)
CHARGE_SIZE = "ratelimit_service_rule_charge_size"
