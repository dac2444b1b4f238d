"""Why a request was answered as it was: the rules that it met, every window, and what the protocol has no field for.

`ratelimit-service ask` asks for it (`explain` of a RateLimitRequest), and reads it from the dynamic metadata of the answer.
Numbers are whole and at most 2^53 - 1, so a protobuf Struct, whose numbers are doubles, carries them exactly.

    {"descriptors": [{"rule": "token-budgets.team_dba",
                      "windows": [{"window": "hour", "unit": "HOUR", "multiplier": 1, "name": "dba-hourly", "limit": 5000,
                                   "used": 4211, "remaining": 789, "over": false, "resets_in": 955}]}]}

A descriptor is empty where nothing limits it. `unlimited`, `shadow_mode` and `quota_mode` are what its rule says; `replaced`
is there where the rule of another descriptor takes the place of its own, `unmatched` where its domain refuses it, and
`unreachable` where its counters could not be read. Beside `descriptors` there can be `domains` (the domain of the request is
unknown, these are known), `missing_keys` (of `required_keys`) and `shadow_mode` (SHADOW_MODE made an OK of a refusal).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..model import Rule, StatusValues, TallyValues, UseValues
from ..planning import Item, Plan, Policy
from ..text import fit
from ..windows.blocks import name as window_name
from .metadata import dynamic_metadata

EXPLANATION = "explanation"
"""Where it stands in the dynamic metadata."""

_LONGEST = 200


def metadata_of(
    policy: Policy,
    plan: Plan,
    told: Sequence[StatusValues],
    counted: Sequence[TallyValues | None],
    *,
    shadowed: bool = False,
) -> dict[str, Any]:
    """The dynamic metadata of an answer: what was asked, where the policy wants it, and the explanation of the answer."""
    metadata = dynamic_metadata(plan, told) if policy.dynamic_metadata else {}
    if plan.notes is not None and plan.notes.explain:
        metadata[EXPLANATION] = explanation(plan, counted, shadowed=shadowed)
    return metadata


def explanation(plan: Plan, counted: Sequence[TallyValues | None], *, shadowed: bool) -> dict[str, Any]:
    """What is known of the answer to `plan`. Without a tally the counters of a limited descriptor could not be read."""
    found: dict[str, Any] = {
        "descriptors": [
            _descriptor(item, tally, plan.now) for item, tally in zip(plan.items, counted, strict=True)
        ]
    }
    if plan.notes is not None and plan.notes.missing_keys:
        found["missing_keys"] = [_fit(key) for key in plan.notes.missing_keys]
    if plan.notes is not None and not plan.known_domain:
        found["domains"] = [_fit(domain) for domain in plan.notes.domains]
    if shadowed:
        found["shadow_mode"] = True
    return found


def _descriptor(item: Item, tally: TallyValues | None, now: int) -> dict[str, Any]:
    if item.denied:
        return {"unmatched": True}
    if item.rule is None:
        return {"replaced": True} if item.replaced else {}
    found = _rule(item.rule)
    if item.quota:
        found["quota_mode"] = True
    if tally is not None:
        _, _, _, _, _, _, _, _, windows = tally
        found["windows"] = [_window(use, now) for use in windows]
    elif item.charges:
        found["unreachable"] = True
    return found


def _rule(rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {"rule": _fit(str(rule.path))}
    if rule.unlimited:
        found["unlimited"] = True
    if rule.shadow:
        found["shadow_mode"] = True
    return found


def _window(use: UseValues, now: int) -> dict[str, Any]:
    limit, _, end, _, used, over, _ = use
    return {
        "window": window_name(limit.window),
        "unit": limit.window.unit.name,
        "multiplier": limit.window.multiplier,
        "name": _fit(limit.name),
        "limit": limit.amount,
        "used": used,
        "remaining": 0 if over else max(0, limit.amount - used),
        "over": over,
        "resets_in": end - now,
    }


def _fit(text: str) -> str:
    return fit(text, _LONGEST)
