"""From counts to the answer.

decide(policy, plan, counts) -> Decision                       pure

A count is what a counter held before the hit, as the store saw it when it was the hit's turn. Where the store held the
hit back (model.Gate), it is the bitwise complement, `~before`, and so below 0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from .denial import limit_text, refuse
from .errors import StoreError
from .metadata import dynamic_metadata
from .model import COUNTER_MAX, OK_STATUS, UNLIMITED_STATUS, Code, Decision, Header, Status, Tally, Use
from .planning import FailureMode, Item, Plan, Policy
from .windows import length

Count = int | StoreError
"""What the store says of one hit."""

_DENIED_STATUS = Status(Code.OVER_LIMIT)
_NOT_REACHED = "the store of its counters cannot be reached"


def decide(policy: Policy, plan: Plan, counts: Sequence[Count]) -> Decision:
    """The answer to a planned request. Raises the StoreError of the first hit that could not be counted."""
    statuses: list[Status] = []
    tallies: list[Tally | None] = []
    for item in plan.items:
        if item.charges:
            status, tally = _judge(policy, plan, item, counts)
            statuses.append(status)
            tallies.append(tally)
        else:
            statuses.append(_unlimited(item))
            tallies.append(None)

    code = _overall(plan.items, statuses)
    if plan.denied:
        code = Code.OVER_LIMIT
        if not any([item.denied for item in plan.items]):  # it lacks a key, and so all of it is refused
            statuses = [_DENIED_STATUS] * len(statuses)
    shadowed = policy.shadow_mode and code is Code.OVER_LIMIT
    if shadowed:
        code = Code.OK
    decision = Decision(code, statuses, tallies, shadowed=shadowed)
    if policy.limit_header:
        decision.headers = _limit_headers(policy, plan.items, statuses)
    if policy.dynamic_metadata:
        decision.dynamic_metadata = dynamic_metadata(plan, statuses)
    if code is Code.OVER_LIMIT:
        refuse(policy, plan, decision)
    return decision


def decide_without_counts(policy: Policy, plan: Plan) -> Decision | None:
    """The answer to a request whose counters cannot be reached, by the failure mode; None where that is an error.

    A status has no limit then, as nothing is known of it, and a refusal nothing to wait for.
    """
    if policy.failure_mode is FailureMode.ERROR:
        return None
    failed = _DENIED_STATUS if policy.failure_mode is FailureMode.DENY else OK_STATUS
    statuses = [failed if item.charges else _unlimited(item) for item in plan.items]
    code = Code.OVER_LIMIT if plan.denied else _overall(plan.items, statuses)
    decision = Decision(code, statuses, [None] * len(statuses))
    if policy.shadow_mode and code is Code.OVER_LIMIT:
        decision.code, decision.shadowed = Code.OK, True
    elif code is Code.OVER_LIMIT and plan.denied:
        refuse(policy, plan, decision)
    elif code is Code.OVER_LIMIT:
        refuse(policy, plan._replace(denied=_NOT_REACHED), decision, "server_error")
    return decision


def _unlimited(item: Item) -> Status:
    if item.denied:
        return _DENIED_STATUS
    return OK_STATUS if item.rule is None else UNLIMITED_STATUS


def _judge(policy: Policy, plan: Plan, item: Item, counts: Sequence[Count]) -> tuple[Status, Tally]:
    """The status of one limited descriptor, and what it adds to the statistics.

    A limit of requests is over where the counter, with these hits in it, would hold more than the limit; a budget,
    where it was used up before: the request that crosses its line succeeds.
    """
    rule, stat, hits = item.rule, item.stat, item.hits
    assert rule is not None and stat is not None
    uses = []
    for limit, span, place in item.charges:
        count = counts[place]
        if isinstance(count, StoreError):
            raise count
        hit = plan.hits[place]
        before = count if count >= 0 else ~count
        over = hits >= 0 and (before >= limit.amount if rule.budget else before + hits > limit.amount)
        after = min(max(0, before + hit.amount), COUNTER_MAX) if count >= 0 else before
        uses.append(Use(limit, hit.key, span.end, before, after, over))
    told = uses[0] if len(uses) == 1 else _told(uses)

    top, reset = told.limit.amount, told.end - plan.now
    if not told.over:
        status = Status(Code.OK, told.limit, max(0, top - told.after), reset)
        near_hits = _near_hits(policy, told) if hits > 0 else 0
        return status, Tally(stat, rule, told.limit, False, max(0, hits), near_hits, uses=tuple(uses))
    status = Status(Code.OK if rule.shadow else Code.OVER_LIMIT, told.limit, 0, reset)
    over_hits, near_hits = _over_hits(policy, told, hits)
    shadow_hits = over_hits if rule.shadow else 0
    return status, Tally(stat, rule, told.limit, True, 0, near_hits, over_hits, shadow_hits, tuple(uses))


def _told(uses: Sequence[Use]) -> Use:
    """The window that the status tells of: of those without room the one that takes longest to reset (of two that
    reset together, the longer unit), or else the one with the least left."""
    over = [use for use in uses if use.over]
    if over:
        return max(over, key=lambda use: (use.end, length(use.limit.window)))
    return min(uses, key=lambda use: use.limit.amount - use.after)


def _near_hits(policy: Policy, use: Use) -> int:
    """How many of the hits that were let through lie above the line where the limit is near."""
    near = near_limit(use.limit.amount, policy.near_limit_ratio)
    return 0 if use.after <= near else use.after - max(near, use.before)


def _over_hits(policy: Policy, use: Use, hits: int) -> tuple[int, int]:
    """How many of the hits count as over the limit, and how many as near it.

    Hits that cross the line of a limit of requests are split: what still fitted is near, what did not is over.
    """
    top = use.limit.amount
    if use.before >= top:
        return hits, 0
    return use.before + hits - top, top - max(near_limit(top, policy.near_limit_ratio), use.before)


def _overall(items: Sequence[Item], statuses: Sequence[Status]) -> Code:
    """OVER_LIMIT where any descriptor is, but those of quota rules only where every one of them is."""
    quotas_left = quotas = 0
    for item, status in zip(items, statuses, strict=True):
        over = status.code is Code.OVER_LIMIT
        if not item.quota:
            if over:
                return Code.OVER_LIMIT
        else:
            quotas += 1
            quotas_left += not over
    return Code.OVER_LIMIT if quotas and not quotas_left else Code.OK


def _limit_headers(policy: Policy, items: Sequence[Item], statuses: Sequence[Status]) -> list[Header]:
    """Limit, remaining and reset of the descriptor that refuses (the last one), or else of the one with the least left."""
    chosen: tuple[Item, Status] | None = None
    for item, status in zip(items, statuses, strict=True):
        if status.limit is None:
            continue
        if status.code is Code.OVER_LIMIT and not item.quota:
            chosen = item, status
        elif chosen is None or (chosen[1].code is Code.OK and status.remaining < chosen[1].remaining):
            chosen = item, status
    if chosen is None:
        return []
    item, status = chosen
    return [
        Header(policy.limit_header, limit_text(item, status)),
        Header(policy.remaining_header, str(status.remaining)),
        Header(policy.reset_header, str(status.reset)),
    ]


@lru_cache(maxsize=4096)
def near_limit(amount: int, ratio: float) -> int:
    """How much may be used before the use is near the limit: `amount` × `ratio`, rounded down.

    In single precision, as upstream reckons, so that both put the line at the same hit.
    """
    return int(_single(_single(amount) * _single(ratio)))


def _single(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded
