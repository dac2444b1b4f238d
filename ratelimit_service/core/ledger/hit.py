"""The hits of refused requests, which write an entry of a ledger and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from ..gates import Gate
from ..model import OVER_LIMIT, STATUS_CODE, TALLY_USES, USE_KEY, Decision, Hit
from ..plan import Plan
from .entries import Period, record
from .rule import LedgerRule


def refusal_hits(plan: Plan, decision: Decision, period_of: Callable[[LedgerRule, int], Period]) -> list[Hit]:
    """Return the hits of a refused request: one for each bucket that refuses it without a charge.

    A charge of an answer counts even if the budget is used up, so it is not a refusal.
    """
    hits: list[Hit] = []
    for planned, addend, status, tally in zip(
        plan.descriptors, plan.addends, decision.status_values, decision.tally_values, strict=True
    ):
        rule = planned.rule
        if tally is None or rule is None or rule.ledger is None or status[STATUS_CODE] is not OVER_LIMIT:
            continue
        if planned.quota or (addend and rule.count_refused):
            continue
        bucket = tally[TALLY_USES][0][USE_KEY].rpartition("}:")[0] + "}"
        into = record(bucket, period_of(rule.ledger, plan.now), rule.ledger.life)
        hits.append(Hit(into.book, 1, ttl=into.life, gate=Gate.LEDGER | Gate.ENTRY, into=into))
    return hits
