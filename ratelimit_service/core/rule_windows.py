"""What all buckets of a rule share while its windows last: these windows, and the hits but for their keys.

A new bucket then needs only its own keys, and an Observer looks up its rows once for a rule
(PlannedDescriptor.memo), not for each bucket.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .amendments.amended_rules import AmendedRules
from .amendments.model import Amendment
from .gates import Gate
from .holds.planning import MeanCharges
from .ledger.entries import Period, period
from .ledger.rule import LedgerRule
from .matching.overrides import OVERRIDE_SOURCE
from .model import Calendar, Rule, Unit, Window
from .plan import PlannedDescriptor, PlannedWindow, Policy, near_limit
from .windows.blocks import Spans

_MOST_NEAR_LIMITS = 1_000
"""The cached results of near_limit."""

_MOST_SHARED = 2_000
"""The cached results of Windows.of. Each takes about a kilobyte."""


class SharedHit:
    """A hit but for its key, its amount and its time to live."""

    __slots__ = ("descriptor", "end", "gate", "label", "limit", "start")

    def __init__(self, label: str, start: int, end: int, descriptor: int, limit: int, gate: int) -> None:
        self.label = label
        """The end of its key, after the bucket."""
        self.start = start
        self.end = end
        self.descriptor = descriptor
        """The index of its descriptor in the request."""
        self.limit = limit
        self.gate = gate


class RuleWindows:
    """The windows of a rule from `begin` to `end`, for the descriptors at one index of their requests."""

    __slots__ = ("alone", "begin", "end", "hits", "longest", "period", "planned")

    def __init__(
        self,
        begin: float,
        end: float,
        planned: PlannedDescriptor,
        hits: tuple[SharedHit, ...],
        period: Period | None,
    ) -> None:
        self.begin = begin
        self.end = end
        self.planned = planned
        self.alone = (planned,)
        """The descriptors of a request that has only this one."""
        self.hits = hits
        self.period = period
        """That of the entries in the rule's ledger; None if it has none."""
        self.longest = 0
        """The index of the hit on the longest window, which carries the entry."""
        if period is not None:
            self.longest = max(range(len(hits)), key=lambda at: hits[at].end - hits[at].start)


class Windows:
    """The current windows of each rule, the near limit of each amount and the amended rules, cached for all
    requests.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._near: dict[int, int] = {}
        self._spans = Spans()
        self._shared: dict[Rule | tuple[Rule, int, int], RuleWindows] = {}
        self.amended_rules = AmendedRules()
        self.means = MeanCharges()
        self.crowded = False
        """Whether there are more rules than are shared, so that a bucket may have windows of its own."""

    @property
    def cached(self) -> Iterator[object]:
        """The windows of all rules."""
        yield from self._shared.values()

    def of(self, rule: Rule, index: int, first: int, now: int) -> RuleWindows:
        """Return the windows of `rule` at `now`, for a descriptor at `index` whose hits begin at `first`."""
        key = (rule, index, first) if index or first else rule
        shared: RuleWindows | None = self._shared.get(key)
        if shared is None or now < shared.begin or now >= shared.end:
            shared = self.make(rule, index, first, now)
            if rule.source != OVERRIDE_SOURCE:  # otherwise, only this request has the rule
                if len(self._shared) >= _MOST_SHARED:
                    self._shared.clear()
                    self.crowded = True
                self._shared[key] = shared
        return shared

    def make(
        self,
        rule: Rule,
        index: int,
        first: int,
        now: int,
        room: Sequence[int] = (),
        amendments: tuple[Amendment, ...] = (),
    ) -> RuleWindows:
        """Return the same for a rule with `amendments`; `room` is AmendedRule.room."""
        begin, end = -math.inf, math.inf
        quota = rule.quota or self._policy.quota_mode
        gate = _gate(self._policy, rule, quota)
        windows: list[PlannedWindow] = []
        hits: list[SharedHit] = []
        for number, limit in enumerate(rule.limits):
            amount = room[number] if room else limit.amount
            since, until, label = self._spans.at(limit.window, now)
            begin, end = max(begin, since), min(end, until)
            windows.append(
                PlannedWindow(limit, amount, until, first + number, self._near_limit(limit.amount))
            )
            hits.append(SharedHit(label, since, until, index, amount, gate))
        planned = PlannedDescriptor(rule, rule.path, tuple(windows), quota=quota, amendments=amendments)
        entries = None
        if rule.ledger is not None:
            entries = self.period(rule.ledger, now)
            begin, end = max(begin, entries.start), min(end, entries.end)
        return RuleWindows(begin, end, planned, tuple(hits), entries)

    def period(self, ledger: LedgerRule, now: int) -> Period:
        """Return the period of the entries that a ledger gets now."""
        unit = Unit.HOUR if ledger.by == "hour" else Unit.DAY
        return period(ledger.by, *self._spans.at(Window(unit, 1, Calendar(ledger.zone)), now))

    def _near_limit(self, amount: int) -> int:
        near = self._near.get(amount)
        if near is None:
            if len(self._near) >= _MOST_NEAR_LIMITS:  # requests may bring any amount
                self._near.clear()
            near = self._near[amount] = near_limit(amount, self._policy.near_limit_ratio)
        return near


def _gate(policy: Policy, rule: Rule, quota: bool) -> int:
    """Return the gate of the hits of a rule.

    Rules in shadow or quota mode refuse nothing, so they hold back no other rule. With upstream's
    STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT they do, and one of them can freeze the counters of the enforced
    rules. A charge on a budget is always counted, whatever that setting is: the tokens are spent.
    """
    gate = Gate.BUDGET if rule.budget else Gate.NONE
    if not (rule.shadow or quota):
        gate |= Gate.REFUSES
    if not rule.count_refused:
        gate |= Gate.HOLDS
    if policy.stop_when_over and not rule.budget:
        gate |= Gate.YIELDS
    return gate
