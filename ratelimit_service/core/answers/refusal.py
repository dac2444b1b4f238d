"""What a refused caller is told: which limit refused, what was used of it, and when to try again.

    retry-after: 28
    content-type: application/json
    {"error": {"message": "Token limit is exceeded. Try again in 28 seconds.", "type": "tokens", "param": null,
               "code": "rate_limit_exceeded", "rate_limit": {...}}}

The shape of the body is OpenAI's, which its SDKs and those modelled on them show to people; `rate_limit` has the details.
Gateways pass both on from `response_headers_to_add` and `raw_body`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..model import OVER_LIMIT, Entry, Header, Limit, Rule, StatusValues, TallyValues, Window
from ..planning import Item, Plan, Policy, described
from ..recent import MIB, remembered
from ..text import header_text, printable
from ..windows.blocks import length

HEADERS = ("retry-after", "content-type", "x-envoy-ratelimited", "x-ratelimit")
"""The names that REFUSAL_HEADERS may have. `x-ratelimit` is three of them: -limit, -remaining and -reset."""

PLACEHOLDERS = ("rule", "descriptor", "used", "limit", "unit", "reset_seconds", "resets_at")
"""What a denial_message may have in braces."""

_LAST_INSTANT = 253_402_300_799
"""9999-12-31T23:59:59Z: no calendar of Python's goes further."""


class Refusal(NamedTuple):
    """What is sent beside the verdict; empty where the policy wants none of it."""

    headers: tuple[Header, ...]
    body: bytes


def refusal(
    policy: Policy, plan: Plan, told: Sequence[StatusValues], counted: Sequence[TallyValues | None]
) -> Refusal:
    """What a caller is told whom a counter refuses."""
    if not (policy.refusal_headers or policy.refusal_body):
        return _SILENCE
    place = _refusing(plan.items, told) if len(told) > 1 else 0
    values = counted[place]
    assert values is not None
    _, rule, told_of, _, _, _, _, _, windows = values
    which = [limit is told_of for limit, _, _, _, _, _, _ in windows].index(True)
    _, _, end, _, used, _, _ = windows[which]
    return _refusal(
        policy.refusal_headers,
        policy.refusal_body,
        plan.request.domain,
        plan.request.descriptors[place].entries,
        rule,
        which,
        used,
        end,
        end - plan.now,
    )


def refusal_without_limit(policy: Policy, why: str, fault: str = "invalid_request_error") -> Refusal:
    """What a caller is told whom no counter refuses: there is nothing to wait for. `fault` is the type of the error."""
    if not (policy.refusal_headers or policy.refusal_body):
        return _SILENCE
    message = f"The request is refused: {why}."
    headers = _headers(policy.refusal_headers, policy.refusal_body)
    return Refusal(tuple(headers), _body(message, fault) if policy.refusal_body else b"")


_SILENCE = Refusal((), b"")


def _weight(
    arguments: tuple[frozenset[str], bool, str, tuple[Entry, ...], Rule, int, int, int, int], refusal: Refusal
) -> int:
    entries = arguments[3]
    return 1_000 + len(refusal.body) + sum([200 + len(key) + len(value) for key, value in entries])


# Who is refused asks again and again, and is told the same until a second has passed: to write it costs several times
# what the decision does.
@remembered(MIB, _weight)
def _refusal(
    headers: frozenset[str],
    has_body: bool,
    domain: str,
    entries: tuple[Entry, ...],
    rule: Rule,
    which: int,
    used: int,
    end: int,
    reset: int,
) -> Refusal:
    """What is told of limit number `which` of a rule, `used` of which is used until `end`, in `reset` seconds."""
    limit = rule.limits[which]
    waiting = [Header("retry-after", str(reset))] if "retry-after" in headers else []
    if "x-ratelimit" in headers:
        waiting.append(Header("x-ratelimit-limit", limit_text(rule.limits, limit)))
        waiting.append(Header("x-ratelimit-remaining", "0"))
        waiting.append(Header("x-ratelimit-reset", str(reset)))
    told = (*waiting, *_headers(headers, has_body))
    if not has_body:
        return Refusal(told, b"")
    facts: dict[str, Any] = {
        "rule": limit.name or printable(rule.name or str(rule.path)),
        "descriptor": described(entries),
        "used": used,
        "limit": limit.amount,
        "unit": unit_text(limit.window),
        "reset_seconds": reset,
        "resets_at": _instant(end),
    }
    what = "Token" if rule.budget else "Rate"
    message = (
        rule.denial_message or f"{what} limit is exceeded. Try again in {{reset_seconds}} {_seconds(reset)}."
    )
    details = {
        "domain": domain,
        "descriptor": facts["descriptor"],
        "rule": facts["rule"],
        "used": used,
        "limit": limit.amount,
        "unit": facts["unit"],
        "resets_in_seconds": reset,
        "resets_at": facts["resets_at"],
    }
    return Refusal(told, _body(fill(message, facts), "tokens" if rule.budget else "requests", details))


def _headers(wanted: frozenset[str], has_body: bool) -> list[Header]:
    """Those that every refusal has."""
    headers = []
    if "content-type" in wanted and has_body:
        headers.append(Header("content-type", "application/json"))
    if "x-envoy-ratelimited" in wanted:
        headers.append(Header("x-envoy-ratelimited", "true"))
    return headers


def _body(message: str, kind: str, limit: dict[str, Any] | None = None) -> bytes:
    error: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": "rate_limit_exceeded"}
    if limit is not None:
        error["rate_limit"] = limit
    return json.dumps({"error": error}).encode("ascii")


def _refusing(items: Sequence[Item], told: Sequence[StatusValues]) -> int:
    """The place of the descriptor that the caller has to wait for.

    Of those that refuse the one that takes longest to reset (of two that reset together, the longer unit, as among the
    windows of one rule); but of quota rules, which refuse only all together, the one that resets first.
    """
    over = [(place, limit, reset) for place, (code, limit, _, reset) in enumerate(told) if code is OVER_LIMIT]
    strict = [(place, limit, reset) for place, limit, reset in over if not items[place].quota]
    if strict:
        place, _, _ = max(strict, key=lambda one: (one[2], length(one[1].window) if one[1] else 0))
    else:
        place, _, _ = min(over, key=lambda one: one[2])
    return place


def limit_text(limits: Sequence[Limit], told: Limit) -> str:
    """The limit that a status tells of; where the rule has several, all of them behind it.

    `5000`, or `5000, 5000;w=3600;name="dba-hourly", 50000;w=86400;name="dba-daily"`, as Envoy writes them.
    """
    if len(limits) < 2:
        return str(told.amount)
    policies = [
        f"{limit.amount};w={length(limit.window)}"
        + (f';name="{header_text(limit.name)}"' if limit.name else "")
        for limit in limits
    ]
    return ", ".join([str(told.amount), *policies])


def unit_text(window: Window) -> str:
    """`hour`, or `15 minutes`."""
    unit = window.unit.name.lower()
    return unit if window.multiplier == 1 else f"{window.multiplier} {unit}s"


def fill(message: str, facts: dict[str, Any]) -> str:
    """A denial_message with its placeholders filled in. It was checked when it was loaded."""
    filled = []
    for text, name, _, _ in string.Formatter().parse(message):
        filled.append(text)
        if name:
            filled.append(str(facts[name]))
    return "".join(filled)


def _seconds(number: int) -> str:
    return "second" if number == 1 else "seconds"


def _instant(moment: int) -> str:
    return datetime.fromtimestamp(min(moment, _LAST_INSTANT), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
