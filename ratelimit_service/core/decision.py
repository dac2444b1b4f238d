"""From counts to the answer.

decide(policy, plan, counts) -> Decision                       pure

A count is what a counter held before the hit, as the store saw it when it was the hit's turn. Where the store held the
hit back (model.Gate), it is the bitwise complement, `~before`, and so below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from .denial import limit_text, refusal, refusal_without_limit
from .errors import StoreError
from .metadata import dynamic_metadata
from .model import (
    COUNTER_MAX,
    OK,
    OK_STATUS,
    OVER_LIMIT,
    UNLIMITED_STATUS,
    Code,
    Decision,
    Header,
    Hit,
    Limit,
    Status,
    Tally,
    new,
)
from .planning import FailureMode, Item, Plan, Policy
from .windows import length

Count = int | StoreError
"""What the store says of one hit."""

_DENIED_STATUS = Status(OVER_LIMIT)
_NOT_REACHED = "the store of its counters cannot be reached"


def decide(policy: Policy, plan: Plan, counts: Sequence[Count]) -> Decision:
    """The answer to a planned request. Raises the StoreError of the first hit that could not be counted."""
    statuses: list[Status] = []
    tallies: list[Tally | None] = []
    over = False
    # Here and below without zip(strict=True): to be given a keyword takes it as long as a status takes to be made.
    _, items, costs, hits, now, _, denied, _ = plan
    for place, item in enumerate(items):
        if item.charges:
            tally, status = _judge(item, costs[place], hits, counts, now)
            tallies.append(tally)
        else:
            status = _unlimited(item)
            tallies.append(None)
        statuses.append(status)
        over = over or status[0] is OVER_LIMIT

    code = _overall(items, statuses) if over else OK
    if denied:
        code = OVER_LIMIT
        if not any([item.denied for item in items]):  # it lacks a key, and so all of it is refused
            statuses = [_DENIED_STATUS] * len(statuses)
    shadowed = policy.shadow_mode and code is OVER_LIMIT
    if shadowed:
        code = OK
    headers = _limit_headers(policy, items, statuses) if policy.limit_header else ()
    metadata = dynamic_metadata(plan, statuses) if policy.dynamic_metadata else None
    if code is OK:
        return new(Decision, (code, statuses, tallies, headers, b"", metadata, shadowed))
    if denied:
        told = refusal_without_limit(policy, denied)
    else:
        told = refusal(policy, plan, statuses, tallies)
    return Decision(code, statuses, tallies, (*headers, *told.headers), told.body, metadata)


def decide_without_counts(policy: Policy, plan: Plan) -> Decision | None:
    """The answer to a request whose counters cannot be reached, by the failure mode; None where that is an error.

    A status has no limit then, as nothing is known of it, and a refusal nothing to wait for.
    """
    if policy.failure_mode is FailureMode.ERROR:
        return None
    failed = _DENIED_STATUS if policy.failure_mode is FailureMode.DENY else OK_STATUS
    statuses = [failed if item.charges else _unlimited(item) for item in plan.items]
    code = OVER_LIMIT if plan.denied else _overall(plan.items, statuses)
    tallies = [None] * len(statuses)
    if code is OK:
        return Decision(OK, statuses, tallies)
    if policy.shadow_mode:
        return Decision(OK, statuses, tallies, shadowed=True)
    if plan.denied:
        told = refusal_without_limit(policy, plan.denied)
    else:
        told = refusal_without_limit(policy, _NOT_REACHED, "server_error")
    return Decision(OVER_LIMIT, statuses, tallies, told.headers, told.body)


def _unlimited(item: Item) -> Status:
    if item.denied:
        return _DENIED_STATUS
    return OK_STATUS if item.rule is None else UNLIMITED_STATUS


def _judge(
    item: Item, cost: int, hits: Sequence[Hit], counts: Sequence[Count], now: int
) -> tuple[Tally, Status]:
    """The status of one limited descriptor, and what it adds to the statistics.

    A limit of requests is over where the counter, with these hits in it, would hold more than the limit; a budget,
    where it was used up before: the request that crosses its line succeeds.
    """
    rule, stat = item.rule, item.stat
    assert rule is not None and stat is not None
    budget = rule.budget
    windows: list[_Values] = []
    told: _Values | None = None
    for limit, span, place, near in item.charges:
        before = counts[place]
        if isinstance(before, StoreError):
            raise before
        key, amount, _, _, _ = hits[place]
        if before < 0:
            after = before = ~before
        elif amount:
            after = before + amount
            after = 0 if after < 0 else after if after < COUNTER_MAX else COUNTER_MAX
        else:
            after = before
        over = cost >= 0 and (before >= limit.amount if budget else before + cost > limit.amount)
        values = (limit, key, span.end, before, after, over, near)
        windows.append(values)
        if told is None or _tells_more(values, told):
            told = values
    assert told is not None
    limit, _, end, before, after, over, near = told

    top, reset = limit.amount, end - now
    if not over:
        near_hits = after - max(near, before) if after > near and cost > 0 else 0
        tally = new(Tally, (stat, rule, limit, False, cost if cost > 0 else 0, near_hits, 0, 0, windows))
        return tally, new(Status, (OK, limit, top - after if after < top else 0, reset))
    # Hits that cross the line of a limit of requests are split: what still fitted is near, what did not is over.
    over_hits, near_hits = (cost, 0) if before >= top else (before + cost - top, top - max(near, before))
    tally = Tally(stat, rule, limit, True, 0, near_hits, over_hits, over_hits if rule.shadow else 0, windows)
    return tally, Status(OK if rule.shadow else OVER_LIMIT, limit, 0, reset)


_Values = tuple[Limit, str, int, int, int, bool, int]
"""Those of a Use."""


def _tells_more(one: _Values, than: _Values) -> bool:
    """Whether the status tells of this window: of those without room the one that takes longest to reset (of two that
    reset together, the longer unit), or else the one with the least left."""
    limit, _, end, _, after, over, _ = one
    other, _, other_end, _, other_after, other_over, _ = than
    if over and other_over:
        return (end, length(limit.window)) > (other_end, length(other.window))
    if over or other_over:
        return over
    return limit.amount - after < other.amount - other_after


def _overall(items: Sequence[Item], statuses: Sequence[Status]) -> Code:
    """OVER_LIMIT where any descriptor is, but those of quota rules only where every one of them is."""
    quotas_left = quotas = 0
    for item, status in zip(items, statuses, strict=True):
        over = status.code is OVER_LIMIT
        if not item.quota:
            if over:
                return OVER_LIMIT
        else:
            quotas += 1
            quotas_left += not over
    return OVER_LIMIT if quotas and not quotas_left else OK


def _limit_headers(policy: Policy, items: Sequence[Item], statuses: Sequence[Status]) -> tuple[Header, ...]:
    """Limit, remaining and reset of the descriptor that refuses (the last one), or else of the one with the least left."""
    chosen: tuple[Item, Status] | None = None
    for item, status in zip(items, statuses, strict=True):
        if status.limit is None:
            continue
        if status.code is OVER_LIMIT and not item.quota:
            chosen = item, status
        elif chosen is None or (chosen[1].code is OK and status.remaining < chosen[1].remaining):
            chosen = item, status
    if chosen is None:
        return ()
    item, status = chosen
    assert item.rule is not None and status.limit is not None
    return (
        Header(policy.limit_header, limit_text(item.rule.limits, status.limit)),
        Header(policy.remaining_header, str(status.remaining)),
        Header(policy.reset_header, str(status.reset)),
    )
