"""From counts to the answer.

    decide(policy, plan, counts) -> Decision                       pure

A count is what a counter held before the hit, as the store saw it when it was the hit's turn. Where the store held the
hit back (model.Gate), it is the bitwise complement, `~before`, and so below 0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from .errors import StoreError
from .metadata import dynamic_metadata
from .model import (
    COUNTER_MAX,
    OK_STATUS,
    UNLIMITED_STATUS,
    Code,
    Decision,
    Header,
    Limit,
    Status,
    Tally,
)
from .planning import Item, Plan, Policy

Count = int | StoreError
"""What the store says of one hit."""


def decide(policy: Policy, plan: Plan, counts: Sequence[Count]) -> Decision:
    """The answer to a planned request. Raises the StoreError of the first hit that could not be counted."""
    statuses: list[Status] = []
    tallies: list[Tally] = []
    for item in plan.items:
        if item.limit is None:
            statuses.append(UNLIMITED_STATUS if item.rule is not None else OK_STATUS)
            continue
        count = counts[item.hit]
        if isinstance(count, StoreError):
            raise count
        status, tally = _judge(policy, plan, item, item.limit, count)
        statuses.append(status)
        tallies.append(tally)

    code = _overall(plan.items, statuses)
    shadowed = policy.shadow_mode and code is Code.OVER_LIMIT
    if shadowed:
        code = Code.OK
    decision = Decision(code, statuses, tallies, shadowed=shadowed)
    if policy.limit_header:
        decision.headers = _limit_headers(policy, plan.items, statuses)
    if policy.dynamic_metadata:
        decision.dynamic_metadata = dynamic_metadata(plan, statuses)
    return decision


def _judge(policy: Policy, plan: Plan, item: Item, limit: Limit, count: int) -> tuple[Status, Tally]:
    """The status of one limited descriptor, by upstream's thresholds, and what it adds to the statistics.

    A descriptor is over its limit where the counter, with these hits in it, holds more than the limit. Hits that cross
    the line are split: what still fitted is near the limit, what did not is over it.
    """
    rule, stat, hits = item.rule, item.stat, item.hits
    assert rule is not None and stat is not None and item.span is not None
    before = count if count >= 0 else ~count
    added = hits if count >= 0 else 0
    after = min(max(0, before + added), COUNTER_MAX)
    reset = item.span.end - plan.now
    if hits < 0:  # a refund is never refused
        status = Status(Code.OK, limit, max(0, limit.amount - after), reset)
        return status, Tally(stat, rule, limit, over=False)

    top = limit.amount
    near = near_limit(top, policy.near_limit_ratio)
    if after <= top:
        near_hits = 0 if after <= near else added if before >= near else after - near
        status = Status(Code.OK, limit, top - after, reset)
        return status, Tally(stat, rule, limit, over=False, within_limit=hits, near_limit=near_hits)

    if before >= top:
        over_hits, near_hits = hits, 0
    else:
        over_hits, near_hits = after - top, top - max(near, before)
    shadow_hits = over_hits if rule.shadow else 0
    status = Status(Code.OK if rule.shadow else Code.OVER_LIMIT, limit, 0, reset)
    return status, Tally(stat, rule, limit, True, 0, near_hits, over_hits, shadow_hits)


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
    chosen: Status | None = None
    for item, status in zip(items, statuses, strict=True):
        if status.limit is None:
            continue
        if status.code is Code.OVER_LIMIT and not item.quota:
            chosen = status
        elif chosen is None or (chosen.code is Code.OK and status.remaining < chosen.remaining):
            chosen = status
    if chosen is None or chosen.limit is None:
        return []
    return [
        Header(policy.limit_header, str(chosen.limit.amount)),
        Header(policy.remaining_header, str(chosen.remaining)),
        Header(policy.reset_header, str(chosen.reset)),
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
