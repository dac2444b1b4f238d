"""From counts to the answer.

decide(policy, plan, counts, refusals) -> Decision                       pure

A count is what a counter held before the hit, as the store saw it when it was the hit's turn. Where the store held the
hit back (model.Gate), it is the bitwise complement, `~before`, and so below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from .answers.explanation import EXPLANATION, explanation, metadata_of
from .answers.limit_headers import ietf_fields, ietf_refusal, limit_text
from .answers.refusal import Refusals
from .errors import StoreError
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
    Status,
    StatusValues,
    TallyValues,
    UseValues,
    new,
)
from .planning import FailureMode, Item, Plan, Policy
from .windows.blocks import length

Count = int | StoreError
"""What the store says of one hit."""

_DENIED_STATUS = Status(OVER_LIMIT)


def decide(policy: Policy, plan: Plan, counts: Sequence[Count], refusals: Refusals | None = None) -> Decision:
    """The answer to a planned request. Raises the StoreError of the first hit that could not be counted.

    Without `refusals` a refused caller receives nothing beside the verdict.
    """
    told: list[StatusValues] = []
    counted: list[TallyValues | None] = []
    over = False
    # Here and below without zip(strict=True): to be given a keyword takes it as long as a status takes to be made.
    _, items, costs, hits, now, _, denied, _, notes = plan
    for place, item in enumerate(items):
        if item.charges:
            status, tally = _judge(item, costs[place], hits, counts, now)
            counted.append(tally)
        else:
            status = _unlimited(item)
            counted.append(None)
        told.append(status)
        if status[0] is OVER_LIMIT:
            over = True
    if over or denied:
        return _refused(policy, plan, told, counted, refusals)
    headers = _limit_headers(policy, plan, told, counted) if policy.shows_limits else ()
    metadata = metadata_of(policy, plan, told, counted) if notes is not None else None
    return new(Decision, (OK, told, counted, headers, b"", metadata, False))


def _refused(
    policy: Policy,
    plan: Plan,
    told: Sequence[StatusValues],
    counted: Sequence[TallyValues | None],
    refusals: Refusals | None,
) -> Decision:
    """The answer where a descriptor is over its limit, or the plan says that the request is denied."""
    items, denied = plan.items, plan.denied
    code = OVER_LIMIT if denied else _overall(items, told)
    if denied and not any([item.denied for item in items]):  # it lacks a key, and so all of it is refused
        told = [_DENIED_STATUS] * len(told)
    shadowed = policy.shadow_mode and code is OVER_LIMIT
    if shadowed:
        code = OK
    headers = _limit_headers(policy, plan, told, counted) if policy.shows_limits else ()
    metadata = None
    if plan.notes is not None:
        metadata = metadata_of(policy, plan, told, counted, shadowed=shadowed)
    if code is OK or refusals is None:
        return Decision(code, told, counted, headers, b"", metadata, shadowed)
    refused = refusals.by_rules(plan) if denied else refusals.by_limit(plan, told, counted)
    return Decision(code, told, counted, headers + refused.headers, refused.body, metadata)


def decide_without_counts(policy: Policy, plan: Plan, refusals: Refusals | None = None) -> Decision | None:
    """The answer to a request whose counters cannot be reached, by the failure mode; None where that is an error.

    A status has no limit then, as nothing is known of it, and a refusal nothing to wait for.
    """
    if policy.failure_mode is FailureMode.ERROR:
        return None
    failed = _DENIED_STATUS if policy.failure_mode is FailureMode.DENY else OK_STATUS
    statuses = [failed if item.charges else _unlimited(item) for item in plan.items]
    code = OVER_LIMIT if plan.denied else _overall(plan.items, statuses)
    tallies = [None] * len(statuses)
    shadowed = policy.shadow_mode and code is OVER_LIMIT
    metadata = None
    if plan.notes is not None and plan.notes.explain:
        metadata = {EXPLANATION: explanation(plan, tallies, shadowed=shadowed)}
    if code is OK or shadowed:
        return Decision(OK, statuses, tallies, dynamic_metadata=metadata, shadowed=shadowed)
    if refusals is None:
        return Decision(OVER_LIMIT, statuses, tallies, dynamic_metadata=metadata)
    refused = refusals.by_rules(plan) if plan.denied else refusals.without_counts(plan)
    return Decision(OVER_LIMIT, statuses, tallies, refused.headers, refused.body, metadata)


def _unlimited(item: Item) -> Status:
    if item.denied:
        return _DENIED_STATUS
    return OK_STATUS if item.rule is None else UNLIMITED_STATUS


def _judge(
    item: Item, cost: int, hits: Sequence[Hit], counts: Sequence[Count], now: int
) -> tuple[StatusValues, TallyValues]:
    """The status of one limited descriptor, and what it adds to the statistics.

    A limit of requests is over where the counter, with these hits in it, would hold more than the limit; a budget,
    where it was used up before: the request that crosses its line succeeds.
    """
    rule, stat = item.rule, item.stat
    assert rule is not None and stat is not None
    budget = rule.budget
    windows: list[UseValues] = []
    chosen: UseValues | None = None
    for limit, top, end, place, near in item.charges:
        before = counts[place]
        if not isinstance(before, int):
            raise before
        hit = hits[place]
        amount = hit.amount
        if before < 0:
            after = before = ~before
        elif amount:
            after = before + amount
            after = 0 if after < 0 else after if after < COUNTER_MAX else COUNTER_MAX
        else:
            after = before
        over = cost >= 0 and (before >= top if budget else before + cost > top)
        use = (limit, hit.key, end, before, after, over, near)
        windows.append(use)
        if chosen is None or _tells_more(use, chosen):
            chosen = use
    assert chosen is not None
    limit, _, end, before, after, over, near = chosen

    top = limit.amount
    if not over:
        near_hits = after - max(near, before) if after > near and cost > 0 else 0
        tally = (stat, rule, limit, False, cost if cost > 0 else 0, near_hits, 0, 0, windows)
        return (OK, None if rule.quiet else limit, top - after if after < top else 0, end - now), tally
    # Hits that cross the line of a limit of requests are split: what still fitted is near, what did not is over.
    over_hits, near_hits = (cost, 0) if before >= top else (before + cost - top, top - max(near, before))
    tally = (stat, rule, limit, True, 0, near_hits, over_hits, over_hits if rule.shadow else 0, windows)
    if rule.shadow:
        return (OK, None if rule.quiet else limit, 0, end - now), tally
    return (OVER_LIMIT, limit, 0, end - now), tally


def _tells_more(one: UseValues, than: UseValues) -> bool:
    """Whether the status tells of this window: of those without room the one that takes longest to reset (of two that
    reset together, the longer unit), or else the one with the least left."""
    limit, _, end, _, after, over, _ = one
    other, _, other_end, _, other_after, other_over, _ = than
    if over and other_over:
        return (end, length(limit.window)) > (other_end, length(other.window))
    if over or other_over:
        return over
    return limit.amount - after < other.amount - other_after


def _overall(items: Sequence[Item], told: Sequence[StatusValues]) -> Code:
    """OVER_LIMIT where any descriptor is, but those of quota rules only where every one of them is."""
    quotas_left = quotas = 0
    for item, (code, _, _, _) in zip(items, told, strict=True):
        if not item.quota:
            if code is OVER_LIMIT:
                return OVER_LIMIT
        else:
            quotas += 1
            quotas_left += code is OK
    return OVER_LIMIT if quotas and not quotas_left else OK


def _limit_headers(
    policy: Policy, plan: Plan, told: Sequence[StatusValues], counted: Sequence[TallyValues | None]
) -> tuple[Header, ...]:
    """Limit, remaining and reset of the descriptor that refuses (the last one), or else of the one with the least left."""
    chosen: int | None = None
    best = OK_STATUS
    for place, status in enumerate(map(Status._make, told)):
        if status.limit is None:
            continue
        if (status.code is OVER_LIMIT and not plan.items[place].quota) or (
            chosen is None or (best.code is OK and status.remaining < best.remaining)
        ):
            chosen, best = place, status
    if chosen is None:
        return ()
    rule, limit = plan.items[chosen].rule, best.limit
    assert rule is not None and limit is not None
    # A refusal that is to name no more than it must names no limit here either.
    minimal = best.code is OVER_LIMIT and policy.minimal(rule.error_details)
    headers = []
    if policy.limit_header and not minimal:
        headers.append(Header(policy.limit_header, limit_text(rule.limits, limit)))
    if policy.remaining_header:
        headers.append(Header(policy.remaining_header, str(best.remaining)))
    if policy.reset_header:
        headers.append(Header(policy.reset_header, str(best.reset)))
    if policy.ietf_fields:
        values = counted[chosen]
        assert values is not None
        if minimal:
            headers.append(ietf_refusal(rule, rule.limits.index(limit), best.reset))
        else:
            headers += ietf_fields(rule, values[-1], plan.now)
    return tuple(headers)
