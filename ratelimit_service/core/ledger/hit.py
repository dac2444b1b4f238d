"""Hits that write an entry of a ledger, in the step that counts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..gates import Gate
from ..model import OVER_LIMIT, STATUS_CODE, TALLY_USES, USE_KEY, Decision, Hit
from ..planning import Plan
from .entries import CHARGED, Period
from .rule import LedgerRule


class Record(NamedTuple):
    """The place of the entry of a hit. All hits of a bucket and a period share one."""

    book: str
    """The key of the book."""
    entry: str
    """The hour or the day, as in Period.entry."""
    life: int
    """The time to live of the book, if it is new."""
    charged: str
    """The key of the entry of charges in the memory store."""


def record(bucket: str, period: Period, life: int) -> Record:
    """Return the place of the entries of a bucket in a period."""
    book = bucket + period.book
    return Record(book, period.entry, life, f"{book}{period.entry}:{CHARGED}")


@dataclass(slots=True, kw_only=True)
class LedgerHit(Hit):
    """A charge or a refund of a counter; or with Gate.ENTRY a refused request, whose key is the book, and which has no count.

    The entry has the effect of the hit on its counter: none if it was held back or has failed, and of a refund
    at most the value of the counter.
    """

    into: Record


def refused(
    plan: Plan, decision: Decision, period_of: Callable[[LedgerRule, int], Period]
) -> list[LedgerHit]:
    """Return the hits of a refused request: one for each bucket that refuses it without a charge.

    A charge of an answer counts even if the budget is used up, so it is not a refusal.
    """
    hits: list[LedgerHit] = []
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
        hits.append(LedgerHit(into.book, 1, ttl=into.life, gate=Gate.LEDGER | Gate.ENTRY, into=into))
    return hits
