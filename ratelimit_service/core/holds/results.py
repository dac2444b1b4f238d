"""What the counts of a plan with holds are for: when a bucket is near, the id of a check, and holds to undo."""

from __future__ import annotations

from collections.abc import Sequence

from ..decision import Count
from ..model import Hit
from ..planning import Plan
from .hit import HoldHit, Op, tokens_in
from .ids import HoldIds, fits, packed_domain


def note(plan: Plan, counts: Sequence[Count]) -> bool:
    """Note how far the buckets of a plan are from their limits. Return whether one has come near."""
    near = False
    for each in plan.holds:
        for window in plan.descriptors[each.holding.descriptor].windows:
            before = counts[window.hit]
            if isinstance(before, int):
                used = before + plan.hits[window.hit].amount if before >= 0 else ~before
                near = each.holding.note(used, window.amount, plan.now) or near
    return near


def results(plan: Plan, counts: Sequence[Count]) -> list[int]:
    """Return Decision.held; a hit that failed held nothing."""
    found = [counts[each.hit] if each.hit >= 0 else 0 for each in plan.holds]
    return [count if isinstance(count, int) else 0 for count in found]


def issue(ids: HoldIds, plan: Plan, counts: Sequence[Count]) -> str:
    """Return the id of the holds of a check; empty if it has none.

    It is issued even if nothing is held, because the charge of an id counts once.
    """
    holds = []
    for each in plan.holds:
        if each.op is Op.TAKE:
            hit = _take(plan.hits, each.hit)
            count = counts[each.hit] if hit is not None else 0
            tokens = tokens_in(count) if isinstance(count, int) else 0
            holds.append((each.holding.packed, tokens, hit.expiry if hit is not None else 0))
    domain = packed_domain(plan.request.domain)
    if not holds or not fits(domain, [packed for packed, *_ in holds]):
        return ""
    return ids.issue(plan.now, domain, holds)


def undone(plan: Plan, counts: Sequence[Count]) -> list[HoldHit]:
    """Return the hits that undo what a plan has set aside."""
    ends = []
    for each in plan.holds:
        hit = _take(plan.hits, each.hit)
        count = counts[each.hit] if hit is not None else 0
        if hit is None or each.op is not Op.TAKE or not isinstance(count, int) or count <= 0:
            continue
        if tokens := tokens_in(count):
            end = HoldHit(
                hit.key,
                ttl=hit.ttl,
                op=Op.RELEASE,
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
