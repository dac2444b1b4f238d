"""Evaluates the counts of a plan with holds: buckets near their limits, the id of a check, and holds to
undo.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..decision import Count
from ..gates import Gate
from ..model import Entry, Hit
from ..plan import Plan
from .hit import ABOVE, RELEASE, TAKE, HoldHit, tokens_in
from .ids import HoldIds, names_of
from .planning import Holding, PlannedHold


def note(plan: Plan, counts: Sequence[Count]) -> bool:
    """Note how near the buckets of a plan are to their limits. Return whether one has come near."""
    near = False
    each: PlannedHold
    for each in plan.holds:
        holding: Holding = each.holding
        if each.op is TAKE:  # checks do not change the use, so one a second is enough
            if holding.looked == plan.now:
                continue
            holding.looked = plan.now
        for window in plan.descriptors[holding.descriptor].windows:
            before = counts[window.hit]
            if isinstance(before, int):
                used = before + plan.hits[window.hit].amount if before >= 0 else ~before
                near = holding.note(used, window.amount, plan.now) or near
    return near


def for_all_second(plan: Plan) -> Plan:
    """Return the plan for later requests of this second with the same hits_addends.

    Far from the limits, one plan a second notes how near they are, and may be learned from.
    """
    each: PlannedHold
    for each in plan.holds:
        if each.holding.near(plan.now) or (each.op is TAKE and each.holding.wants_ids()):
            return plan
    return plan.without_holds([hit for hit in plan.hits if not hit.gate & Gate.ASIDE])


def results(plan: Plan, counts: Sequence[Count]) -> list[int]:
    """Return Decision.held; a hit that failed held nothing. It is empty if the request has no hits on
    holds.
    """
    found: list[int] = []
    each: PlannedHold
    for each in plan.holds:
        count = counts[each.hit] if each.hit >= 0 else 0
        found.append(count if isinstance(count, int) else 0)
    return [] if len(found) == 1 and plan.holds[0].hit < 0 else found


def issue(ids: HoldIds, plan: Plan, counts: Sequence[Count]) -> str:
    """Return the id of the holds of a check; empty if it has none, or there is no secret.

    It is issued even if nothing is held, because the charge of an id counts once.
    """
    each: PlannedHold
    if len(plan.holds) == 1:
        each = plan.holds[0]
        if each.op is not TAKE or not each.holding.names:
            return ""
        tokens = _held(counts, each.hit)
        expiry = plan.hits[each.hit].expiry if tokens else 0  # type: ignore[attr-defined]
        return ids.issue_one(plan.now, tokens, expiry, each.holding.names)
    holds: list[tuple[int, int]] = []
    names: list[Sequence[Entry]] = []
    own = b""
    for each in plan.holds:
        if each.op is TAKE:
            tokens = _held(counts, each.hit)
            holds.append((tokens, plan.hits[each.hit].expiry) if tokens else (0, 0))  # type: ignore[attr-defined]
            names.append(each.holding.entries)
            own = each.holding.names
    if not holds:
        return ""
    if len(holds) > 1:
        own = names_of(plan.request.domain, names)
    return ids.issue(plan.now, holds, own) if own else ""


def _held(counts: Sequence[Count], place: int) -> int:
    """Return the tokens of a hold; 0 where nothing is held.

    A count below 0 is of a check that was refused, and holds nothing, even if shadow mode answers OK.
    """
    count = counts[place] if place >= 0 else 0
    return count % ABOVE if isinstance(count, int) and count > 0 else 0


def undone(plan: Plan, counts: Sequence[Count]) -> list[HoldHit]:
    """Return the hits that release the tokens that a plan has set aside."""
    ends = []
    for each in plan.holds:
        hit = _take(plan.hits, each.hit)
        count = counts[each.hit] if hit is not None else 0
        if hit is None or each.op is not TAKE or not isinstance(count, int) or count <= 0:
            continue
        if tokens := tokens_in(count):
            end = HoldHit(
                hit.key,
                ttl=hit.ttl,
                op=RELEASE,
                now=hit.now,
                life=hit.life,
                expiry=hit.expiry,
                tokens=tokens,
                made=hit.now,
            )
            ends.append(end)
    return ends


def _take(hits: Sequence[Hit], place: int) -> HoldHit | None:
    hit = hits[place] if place >= 0 else None
    return hit if isinstance(hit, HoldHit) else None
