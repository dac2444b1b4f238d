"""The metrics of holds: tokens set aside, holds that expire, requests that holds refuse, and the overshoot of
budgets.
"""

from __future__ import annotations

from heapq import heappop, heappush

from ..core.holds.hit import ABOVE, CHARGE, TAKE, expired_in, tokens_in
from ..core.holds.planning import Holding, PlannedHold
from ..core.model import TALLY_RULE, TALLY_USES, USE_AFTER, USE_END, USE_KEY, USE_LIMIT, Decision, Limit, Rule
from ..core.plan import Plan
from .labels import rule_labels
from .tables import Histogram, Table, counters

_METRICS = (
    "ratelimit_service_rule_holds",
    "ratelimit_service_rule_held_tokens",
    "ratelimit_service_rule_holds_ended",
    "ratelimit_service_rule_holds_expired",
    "ratelimit_service_rule_refused_in_flight",
)
_HOLDS, _TOKENS, _ENDED, _EXPIRED, _REFUSED = range(5)

_SHARES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the overshoot, as shares of the limit."""

_MOST = 10_000
"""Windows that are over their limit and have not ended."""


class HoldMetrics:
    """Counts by rule, in its first window. `most` bounds the series."""

    def __init__(self, most: int = 10_000) -> None:
        self.rules = counters(_METRICS, most)
        self.overshoot = Table(("ratelimit_service_rule_overshoot_ratio",), lambda: Histogram(_SHARES), most)
        self._over: dict[tuple[str, int], tuple[Rule, Limit, int]] = {}
        """The use of windows that are over their limit, by counter and end, as last seen."""
        self._ends: list[tuple[int, str]] = []
        self._rows: dict[Rule, list[int]] = {}

    def decided(self, plan: Plan, decision: Decision) -> None:
        """Count a decision with holds."""
        holds, tallies = plan.holds, decision.tally_values
        each: PlannedHold
        for at, result in enumerate(decision.held):
            each = holds[at]
            holding: Holding = each.holding
            op = each.op
            tally = tallies[holding.descriptor]
            if tally is None:
                continue
            row = holding.memo
            if row is None:
                row = holding.memo = self._row_of(tally[TALLY_RULE])
            if result < 0:
                row[_REFUSED] += 1
                continue
            if result >= ABOVE:
                row[_EXPIRED] += expired_in(result)
                result = tokens_in(result)
            if op is not TAKE:
                row[_ENDED] += result > 0
            elif result:
                row[_HOLDS] += 1
                row[_TOKENS] += result
            if op is CHARGE:
                rule = _original(tally[TALLY_RULE])
                for use in tally[TALLY_USES]:
                    if use[USE_AFTER] >= use[USE_LIMIT].amount:
                        self._note(rule, use[USE_LIMIT], use[USE_KEY], use[USE_END], use[USE_AFTER])
        if self._ends and self._ends[0][0] <= plan.now:
            self.flush(plan.now)

    def forget_rules(self) -> None:
        """Release the rules that were replaced."""
        self._rows = {}

    def _row_of(self, rule: Rule) -> list[int]:
        """Return the row of a rule, which Holding.memo keeps for each bucket."""
        rule = _original(rule)
        row = self._rows.get(rule)
        if row is None:
            row = self._rows[rule] = self.rules.row(rule_labels(rule, rule.limits[0]))
        return row

    def _note(self, rule: Rule, limit: Limit, key: str, end: int, used: int) -> None:
        known = (key, end)
        if known not in self._over:
            if len(self._over) >= _MOST:
                return
            heappush(self._ends, (end, key))
        self._over[known] = (rule, limit, used)

    def flush(self, now: int) -> None:
        """Observe the overshoot of the windows that have ended."""
        while self._ends and self._ends[0][0] <= now:
            end, key = heappop(self._ends)
            rule, limit, used = self._over.pop((key, end))
            if limit.amount:
                row = self.overshoot.row(rule_labels(rule, limit))
                row.observe((used - limit.amount) / limit.amount)


def _original(rule: Rule) -> Rule:
    """Return the rule as which a rule counts: an amended one as its original."""
    return rule if rule.original is None else rule.original
