"""From counts to the decision on a request.

decide(policy, plan, counts, refusals) -> Decision                       pure

A count is what a counter held just before the hit. If the store did not count the hit (core/gates.py), the
count is the bitwise complement, `~before`, and so below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from .answers.explanation import EXPLANATION, explanation, metadata_of
from .answers.limit_headers import ietf_fields, ietf_refusal, limit_text
from .answers.refusal import Refusals
from .answers.signals import signals_of
from .errors import StoreError
from .hit import Hit
from .holds.hit import delay_in, held_in
from .holds.planning import PlannedHold
from .model import (
    COUNTER_MAX,
    OK,
    OK_STATUS,
    OVER_LIMIT,
    STATUS_CODE,
    TALLY_USES,
    UNLIMITED_STATUS,
    USE_AFTER,
    USE_END,
    USE_LIMIT,
    USE_OVER,
    Code,
    Decision,
    Header,
    Status,
    StatusValues,
    TallyValues,
    UseValues,
)
from .plan import FailureMode, Plan, PlannedDescriptor, PlannedWindow, Policy
from .windows.blocks import length

Count = int | StoreError
"""What the store returns for one hit."""

InFlight = tuple[int, int, int]
"""Decision.in_flight."""

_DENIED_STATUS = Status(OVER_LIMIT)


def decide(policy: Policy, plan: Plan, counts: Sequence[Count], refusals: Refusals | None = None) -> Decision:
    """Return the answer to a planned request. Raises the StoreError of the first hit that was not counted.

    Without `refusals`, a refusal has neither headers nor a body.
    """
    statuses: list[StatusValues] = []
    tallies: list[TallyValues | None] = []
    over = False
    addends = plan.addends
    hits = plan.hits
    now = plan.now
    planned: PlannedDescriptor
    # Without zip(strict=True): the keyword alone takes as long as making a status.
    for index, planned in enumerate(plan.descriptors):
        if not planned.windows:
            tallies.append(None)
            statuses.append(_unlimited_status(planned))
            over = over or planned.denied
        elif _judge(planned, addends[index], hits, counts, now, statuses, tallies):
            over = True
    in_flight = _refuse_in_flight(plan, statuses, counts) if plan.holds else None
    if over or in_flight is not None or plan.denial:
        return _refused(policy, plan, statuses, tallies, refusals, None if over else in_flight)
    headers = _limit_headers(policy, plan, statuses, tallies) if policy.shows_limits else ()
    if plan.notes is None:
        return Decision(OK, statuses, tallies, headers)
    metadata = metadata_of(policy, plan, statuses, tallies)
    signals = signals_of(policy, plan, tallies) if plan.notes.signals else None
    return Decision(OK, statuses, tallies, headers, b"", metadata, signals=signals)


def _refused(
    policy: Policy,
    plan: Plan,
    statuses: Sequence[StatusValues],
    tallies: Sequence[TallyValues | None],
    refusals: Refusals | None,
    in_flight: InFlight | None,
) -> Decision:
    """Return the answer to a request that is denied, or has a descriptor that is over its limit."""
    code = OVER_LIMIT if plan.denial else _overall_code(plan.descriptors, statuses)
    if plan.denial and not any([planned.denied for planned in plan.descriptors]):  # it lacks a required key
        statuses = [_DENIED_STATUS] * len(statuses)
    shadowed = policy.shadow_mode and code is OVER_LIMIT
    if shadowed:
        code = OK
    headers = _limit_headers(policy, plan, statuses, tallies) if policy.shows_limits else ()
    metadata = None
    if plan.notes is not None:
        metadata = metadata_of(policy, plan, statuses, tallies, shadowed=shadowed)
    if code is OK or refusals is None:
        signals = None
        if code is OK and plan.notes is not None and plan.notes.signals:
            signals = signals_of(policy, plan, tallies)
        return Decision(code, statuses, tallies, headers, b"", metadata, shadowed, "", in_flight, signals)
    if plan.denial:
        refusal = refusals.by_rules(plan)
    elif in_flight is not None:
        refusal = refusals.in_flight(plan, in_flight)
    else:
        refusal = refusals.by_limit(plan, statuses, tallies)
    headers += refusal.headers
    return Decision(code, statuses, tallies, headers, refusal.body, metadata, in_flight=in_flight)


def _refuse_in_flight(plan: Plan, statuses: list[StatusValues], counts: Sequence[Count]) -> InFlight | None:
    """Refuse the descriptors whose budget is held by requests in flight. Return the last to have room again.

    Their statuses say when to retry, and not when the window ends: gateways make a retry-after of it.
    """
    found: InFlight | None = None
    each: PlannedHold
    for each in plan.holds:
        count = counts[each.hit] if each.hit >= 0 else 0
        if not isinstance(count, int) or count >= 0:
            continue
        index, delay = each.holding.descriptor, delay_in(count)
        if statuses[index][STATUS_CODE] is OVER_LIMIT:
            continue
        statuses[index] = (OVER_LIMIT, plan.descriptors[index].windows[0].limit, 0, delay)
        if found is None or delay > found[2]:
            found = (index, held_in(count), delay)
    return found


def decide_without_counts(policy: Policy, plan: Plan, refusals: Refusals | None = None) -> Decision | None:
    """Return the answer to a request without its counters, or None if the failure mode is an error.

    Its statuses have no limit and its refusal has no reset, because the counters are unknown.
    """
    if policy.failure_mode is FailureMode.ERROR:
        return None
    failed = _DENIED_STATUS if policy.failure_mode is FailureMode.DENY else OK_STATUS
    statuses = [failed if planned.windows else _unlimited_status(planned) for planned in plan.descriptors]
    code = OVER_LIMIT if plan.denial else _overall_code(plan.descriptors, statuses)
    tallies = [None] * len(statuses)
    shadowed = policy.shadow_mode and code is OVER_LIMIT
    metadata = None
    if plan.notes is not None and plan.notes.explain:
        metadata = {EXPLANATION: explanation(plan, tallies, shadowed=shadowed)}
    if code is OK or shadowed:
        return Decision(OK, statuses, tallies, dynamic_metadata=metadata, shadowed=shadowed)
    if refusals is None:
        return Decision(OVER_LIMIT, statuses, tallies, dynamic_metadata=metadata)
    refusal = refusals.by_rules(plan) if plan.denial else refusals.without_counts(plan)
    return Decision(OVER_LIMIT, statuses, tallies, refusal.headers, refusal.body, metadata)


def _unlimited_status(planned: PlannedDescriptor) -> Status:
    if planned.denied:
        return _DENIED_STATUS
    return OK_STATUS if planned.rule is None else UNLIMITED_STATUS


def _judge(
    planned: PlannedDescriptor,
    addend: int,
    hits: Sequence[Hit],
    counts: Sequence[Count],
    now: int,
    statuses: list[StatusValues],
    tallies: list[TallyValues | None],
) -> bool:
    """Add the status of a limited descriptor, and its tally. Return whether the descriptor is refused.

    A window of requests is over if the counter, with these hits, would exceed the limit. A budget is over if
    it was used up before: the request that crosses the limit succeeds. Hit.is_over has the same rule; a call
    of it would make this function a tenth slower.
    """
    rule, stat, budget = planned.rule, planned.stat, planned.budget
    assert rule is not None and stat is not None
    uses: list[UseValues] = []
    shown: UseValues | None = None
    window: PlannedWindow
    hit: Hit
    before = after = shown_before = shown_after = 0
    over = shown_over = False
    shown_window = planned.windows[0]
    for window in planned.windows:
        count = counts[window.hit]
        if not isinstance(count, int):
            raise count
        hit = hits[window.hit]
        before = count
        amount = window.amount
        if before < 0:
            after = before = ~before
        else:
            after = before + hit.amount
            if after > COUNTER_MAX:
                after = COUNTER_MAX if hit.amount else before
            elif after < 0:
                after = 0
        over = addend >= 0 and (before >= amount if budget else before + addend > amount)
        use = (window.limit, hit.key, window.end, before, after, over, window.near)
        uses.append(use)
        if shown is None or _is_shown_before(use, shown):
            shown, shown_window = use, window
            shown_before, shown_after, shown_over = before, after, over
    limit, near, reset = shown_window.limit, shown_window.near, shown_window.end - now
    amount = shown_window.configured
    if not shown_over:
        near_hits = 0
        if shown_after > near and addend > 0:
            near_hits = shown_after - (near if near > shown_before else shown_before)
        remaining = amount - shown_after if shown_after < amount else 0
        tallies.append((stat, rule, limit, False, addend if addend > 0 else 0, near_hits, 0, 0, uses))
        statuses.append((OK, None if planned.hides_limit else limit, remaining, reset))
        return False
    # If the hits cross a limit of requests, those that fit are near the limit, and the rest is over it.
    if shown_before >= amount:
        over_hits, near_hits = addend, 0
    else:
        over_hits = shown_before + addend - amount
        near_hits = amount - (near if near > shown_before else shown_before)
    shadow = planned.shadow
    tallies.append((stat, rule, limit, True, 0, near_hits, over_hits, over_hits if shadow else 0, uses))
    if shadow:
        statuses.append((OK, None if planned.hides_limit else limit, 0, reset))
        return False
    statuses.append((OVER_LIMIT, limit, 0, reset))
    return True


def _is_shown_before(one: UseValues, other: UseValues) -> bool:
    """Return whether the status shows window `one` rather than `other`.

    It shows the window without room that takes longest to reset (of two that reset together, the longer one).
    If all have room, it shows the one with the least left.
    """
    over, other_over = one[USE_OVER], other[USE_OVER]
    limit, other_limit = one[USE_LIMIT], other[USE_LIMIT]
    if over and other_over:
        return (one[USE_END], length(limit.window)) > (other[USE_END], length(other_limit.window))
    if over or other_over:
        return over
    return limit.amount - one[USE_AFTER] < other_limit.amount - other[USE_AFTER]


def _overall_code(descriptors: Sequence[PlannedDescriptor], statuses: Sequence[StatusValues]) -> Code:
    """Return OVER_LIMIT if any descriptor is over. Quota rules count only if all of them are over."""
    quotas_left = quotas = 0
    for planned, status in zip(descriptors, statuses, strict=True):
        code = status[STATUS_CODE]
        if not planned.quota:
            if code is OVER_LIMIT:
                return OVER_LIMIT
        else:
            quotas += 1
            quotas_left += code is OK
    return OVER_LIMIT if quotas and not quotas_left else OK


def _limit_headers(
    policy: Policy, plan: Plan, statuses: Sequence[StatusValues], tallies: Sequence[TallyValues | None]
) -> tuple[Header, ...]:
    """Return limit, remaining and reset of the last refusing descriptor, or of that with the least left."""
    chosen: int | None = None
    best = OK_STATUS
    for index, status in enumerate(map(Status._make, statuses)):
        if status.limit is None:
            continue
        if (status.code is OVER_LIMIT and not plan.descriptors[index].quota) or (
            chosen is None or (best.code is OK and status.remaining < best.remaining)
        ):
            chosen, best = index, status
    if chosen is None:
        return ()
    rule, limit = plan.descriptors[chosen].rule, best.limit
    assert rule is not None and limit is not None
    # With `error_details: minimal`, a refusal hides the limit here as well.
    minimal = best.code is OVER_LIMIT and policy.minimal(rule.error_details)
    headers = []
    if policy.limit_header and not minimal:
        headers.append(Header(policy.limit_header, limit_text(rule.limits, limit)))
    if policy.remaining_header:
        headers.append(Header(policy.remaining_header, str(best.remaining)))
    if policy.reset_header:
        headers.append(Header(policy.reset_header, str(best.reset)))
    if policy.ietf_fields:
        tally = tallies[chosen]
        assert tally is not None
        if minimal:
            headers.append(ietf_refusal(rule, rule.limits.index(limit), best.reset))
        else:
            headers += ietf_fields(rule, tally[TALLY_USES], plan.now)
    return tuple(headers)
