"""Why a request was answered as it was: its rules, every window, and what the protocol has no field for.

`ratelimit-service ask` requests an explanation (`explain` of a RateLimitRequest) and reads it from the
dynamic metadata of the answer. Numbers are whole and at most 2^53 - 1. The numbers of a protobuf Struct are
doubles, and hold them exactly.

    {"descriptors": [{"rule": "token-budgets.team_dba",
                      "windows": [{"window": "hour", "unit": "HOUR", "multiplier": 1, "name": "dba-hourly",
                                   "limit": 5000, "used": 4211, "remaining": 789, "over": false,
                                   "resets_in": 955}]}]}

A descriptor is empty if nothing limits it. Otherwise it can have

    unlimited, shadow_mode, quota_mode   as in its rule
    budget                               its rule counts tokens
    replaced                             the rule of another descriptor replaces its own
    unmatched                            no rule matches it, and its domain refuses that
    blocked                              an amendment refuses it, and no rule limits it
    amendments                           the ids of the amendments that hold; a window whose limit they change
                                         also has the limit of the rule, `rule_limit`
    unreachable                          its counters could not be read

Beside `descriptors` there can be

    domains        known domains: the domain of the request is unknown
    missing_keys   the `required_keys` that no descriptor has
    shadow_mode    SHADOW_MODE turned a refusal into this OK
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..model import (
    TALLY_USES,
    USE_AFTER,
    USE_END,
    USE_LIMIT,
    USE_OVER,
    Rule,
    StatusValues,
    TallyValues,
    UseValues,
)
from ..plan import Plan, PlannedDescriptor, Policy
from ..text import fit
from ..windows.blocks import name as window_name
from .metadata import dynamic_metadata

EXPLANATION = "explanation"
"""Its key in the dynamic metadata."""

_LONGEST = 200


def metadata_of(
    policy: Policy,
    plan: Plan,
    statuses: Sequence[StatusValues],
    tallies: Sequence[TallyValues | None],
    *,
    shadowed: bool = False,
) -> dict[str, Any]:
    """Return the dynamic metadata of an answer: the request and the explanation, each if wanted."""
    metadata = dynamic_metadata(plan, statuses) if policy.dynamic_metadata else {}
    if plan.notes is not None and plan.notes.explain:
        metadata[EXPLANATION] = explanation(plan, tallies, shadowed=shadowed)
    return metadata


def explanation(plan: Plan, tallies: Sequence[TallyValues | None], *, shadowed: bool) -> dict[str, Any]:
    """Explain the answer to `plan`. Without a tally, the counters of a limited descriptor are unknown."""
    found: dict[str, Any] = {
        "descriptors": [
            _descriptor(planned, tally, plan.now)
            for planned, tally in zip(plan.descriptors, tallies, strict=True)
        ]
    }
    if plan.notes is not None and plan.notes.missing_keys:
        found["missing_keys"] = [_fit(key) for key in plan.notes.missing_keys]
    if plan.notes is not None and not plan.known_domain:
        found["domains"] = [_fit(domain) for domain in plan.notes.domains]
    if shadowed:
        found["shadow_mode"] = True
    return found


def _descriptor(planned: PlannedDescriptor, tally: TallyValues | None, now: int) -> dict[str, Any]:
    if planned.blocked:
        return {"blocked": True, "amendments": [amendment.id for amendment in planned.amendments]}
    if planned.denied:
        return {"unmatched": True}
    if planned.rule is None:
        return {"replaced": True} if planned.replaced else {}
    found = _rule(planned.rule)
    if planned.quota:
        found["quota_mode"] = True
    if planned.amendments:
        found["amendments"] = [amendment.id for amendment in planned.amendments]
    if tally is not None:
        found["windows"] = [_window(use, now) for use in tally[TALLY_USES]]
        if planned.rule.original is not None:
            for window, limit in zip(found["windows"], planned.rule.original.limits, strict=True):
                if window["limit"] != limit.amount:
                    window["rule_limit"] = limit.amount
    elif planned.windows:
        found["unreachable"] = True
    return found


def _rule(rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {"rule": _fit(str(rule.path))}
    if rule.budget:
        found["budget"] = True
    if rule.unlimited:
        found["unlimited"] = True
    if rule.shadow:
        found["shadow_mode"] = True
    return found


def _window(use: UseValues, now: int) -> dict[str, Any]:
    limit, used, over = use[USE_LIMIT], use[USE_AFTER], use[USE_OVER]
    return {
        "window": window_name(limit.window),
        "unit": limit.window.unit.name,
        "multiplier": limit.window.multiplier,
        "name": _fit(limit.name),
        "limit": limit.amount,
        "used": used,
        "remaining": 0 if over else max(0, limit.amount - used),
        "over": over,
        "resets_in": use[USE_END] - now,
    }


def _fit(text: str) -> str:
    return fit(text, _LONGEST)
