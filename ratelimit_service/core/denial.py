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
from typing import Any

from .model import Code, Decision, Header, Status, Tally, Use, Window
from .planning import Item, Plan, Policy, described
from .text import printable
from .windows import length

HEADERS = ("retry-after", "content-type", "x-envoy-ratelimited", "x-ratelimit")
"""The names that REFUSAL_HEADERS may have. `x-ratelimit` is three of them: -limit, -remaining and -reset."""

PLACEHOLDERS = ("rule", "descriptor", "used", "limit", "unit", "reset_seconds", "resets_at")
"""What a denial_message may have in braces."""

_LAST_INSTANT = 253_402_300_799
"""9999-12-31T23:59:59Z: no calendar of Python's goes further."""


def refuse(policy: Policy, plan: Plan, decision: Decision, fault: str = "invalid_request_error") -> None:
    """Put headers and body of a refusal into `decision`, as far as `policy` wants them.

    `fault` is the type of the error where `plan.denied` is why, and no counter.
    """
    if not (policy.refusal_headers or policy.refusal_body):
        return
    if plan.denied:
        details = _Details(f"The request is refused: {plan.denied}.", fault, None)
    else:
        details = _details(plan, decision)
    decision.headers = decision.headers + _headers(policy.refusal_headers, policy.refusal_body, details)
    if policy.refusal_body:
        error: dict[str, Any] = {
            "message": details.message,
            "type": details.kind,
            "param": None,
            "code": "rate_limit_exceeded",
        }
        if details.limit is not None:
            error["rate_limit"] = details.limit
        decision.body = json.dumps({"error": error}).encode("ascii")


class _Details:
    """What is to be told. `limit` is None where no counter refused; then there is nothing to wait for either."""

    def __init__(
        self,
        message: str,
        kind: str,
        limit: dict[str, Any] | None,
        item: Item | None = None,
        status: Status | None = None,
    ) -> None:
        self.message = message
        self.kind = kind
        self.limit = limit
        self.item = item
        self.status = status


def _details(plan: Plan, decision: Decision) -> _Details:
    place = _refusing(plan.items, decision.statuses)
    item, status, tally = plan.items[place], decision.statuses[place], decision.tallies[place]
    assert tally is not None and status.limit is not None
    use = _told(tally)
    facts = {
        "rule": printable(tally.rule.name or str(tally.rule.path)) if not use.limit.name else use.limit.name,
        "descriptor": described(plan.request.descriptors[place]),
        "used": use.after,
        "limit": use.limit.amount,
        "unit": unit_text(use.limit.window),
        "reset_seconds": status.reset,
        "resets_at": _instant(use.end),
    }
    what = "Token" if tally.rule.budget else "Rate"
    message = (
        tally.rule.denial_message
        or f"{what} limit is exceeded. Try again in {{reset_seconds}} {_seconds(status.reset)}."
    )
    limit = {
        "domain": plan.request.domain,
        "descriptor": facts["descriptor"],
        "rule": facts["rule"],
        "used": use.after,
        "limit": use.limit.amount,
        "unit": facts["unit"],
        "resets_in_seconds": status.reset,
        "resets_at": facts["resets_at"],
    }
    return _Details(fill(message, facts), "tokens" if tally.rule.budget else "requests", limit, item, status)


def _refusing(items: Sequence[Item], statuses: Sequence[Status]) -> int:
    """The place of the descriptor that the caller has to wait for.

    Of those that refuse the one that takes longest to reset (of two that reset together, the longer unit, as among the
    windows of one rule); but of quota rules, which refuse only all together, the one that resets first.
    """
    over = [place for place, status in enumerate(statuses) if status.code is Code.OVER_LIMIT]
    strict = [place for place in over if not items[place].quota]
    if strict:
        return max(strict, key=lambda place: _wait(statuses[place]))
    return min(over, key=lambda place: statuses[place].reset)


def _wait(status: Status) -> tuple[int, int]:
    assert status.limit is not None
    return status.reset, length(status.limit.window)


def _told(tally: Tally) -> Use:
    return next(use for use in tally.uses if use.limit is tally.limit)


def _headers(wanted: frozenset[str], has_body: bool, details: _Details) -> list[Header]:
    headers = []
    item, status = details.item, details.status
    if item is not None and status is not None:
        if "retry-after" in wanted:
            headers.append(Header("retry-after", str(status.reset)))
        if "x-ratelimit" in wanted:
            headers.append(Header("x-ratelimit-limit", limit_text(item, status)))
            headers.append(Header("x-ratelimit-remaining", str(status.remaining)))
            headers.append(Header("x-ratelimit-reset", str(status.reset)))
    if "content-type" in wanted and has_body:
        headers.append(Header("content-type", "application/json"))
    if "x-envoy-ratelimited" in wanted:
        headers.append(Header("x-envoy-ratelimited", "true"))
    return headers


def limit_text(item: Item, status: Status) -> str:
    """The limit that a status tells of; where the rule has several windows, all of them behind it.

    `5000`, or `5000, 5000;w=3600;name="dba-hourly", 50000;w=86400;name="dba-daily"`, as Envoy writes them.
    """
    assert status.limit is not None
    if len(item.charges) < 2:
        return str(status.limit.amount)
    policies = [
        f"{limit.amount};w={length(limit.window)}" + (f';name="{limit.name}"' if limit.name else "")
        for limit, _, _ in item.charges
    ]
    return ", ".join([str(status.limit.amount), *policies])


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
