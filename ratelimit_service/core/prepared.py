"""What a request is but for its hits_addends and the time; the planner makes plans of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .amendments.amended import BLOCKED, AmendedRules, Held, block_of
from .amendments.model import Amendment
from .model import COUNTER_MAX, Gate, Hit, Request, Rule, StatKey
from .planning import Notes, Plan, PlannedDescriptor, PlannedWindow, near_limit
from .record import record
from .windows.blocks import Spans

Jitter = Callable[[], int]
"""Seconds that a new counter outlives its window, so that counters do not all expire at once."""

_new = object.__new__

_MOST_NEAR_LIMITS = 1_000
"""The cached results of near_limit."""


class Windows:
    """The current span of each window, the near limit of each amount and the amended rules, cached for all
    requests.
    """

    def __init__(self, near_limit_ratio: float) -> None:
        self._ratio = near_limit_ratio
        self._near: dict[int, int] = {}
        self.spans = Spans()
        self.amended = AmendedRules()

    def near(self, amount: int) -> int:
        """Return near_limit of `amount`."""
        near = self._near.get(amount)
        if near is None:
            if len(self._near) >= _MOST_NEAR_LIMITS:  # requests may bring any amount
                self._near.clear()
            near = self._near[amount] = near_limit(amount, self._ratio)
        return near


class LimitedDescriptor(NamedTuple):
    """A descriptor that a rule limits, before its windows are known."""

    rule: Rule
    stat: StatKey
    bucket: str
    gate: int
    quota: bool

    def by(self, rule: Rule) -> LimitedDescriptor:
        """Return the same by its rule as amendments make it, which may refuse where the rule does not."""
        gate = self.gate | Gate.REFUSES if self.rule.shadow and not (rule.shadow or self.quota) else self.gate
        return self._replace(rule=rule, gate=gate)


@record
class _PreparedHit:
    """A hit on one counter but for its amount and its time to live."""

    key: str
    start: int
    end: int
    descriptor: int
    limit: int
    gate: int

    def check(self) -> Hit:
        """Return the hit for a check, which can be any second of the window."""
        return Hit(self.key, 0, ttl=self.end - self.start, limit=self.limit, gate=self.gate)


class PreparedRequest:
    """A request but for its hits_addends and the time, with the windows of its last plan."""

    __slots__ = (
        "_begin",
        "_budgets",
        "_checks",
        "_denial",
        "_denial_by_rules",
        "_descriptors",
        "_end",
        "_hits",
        "_known_domain",
        "_most",
        "_notes",
        "_planned",
        "_windows",
        "held",
        "version",
        "weight",
    )

    def __init__(
        self,
        windows: Windows,
        descriptors: Sequence[PlannedDescriptor | LimitedDescriptor],
        held: Mapping[int, Held],
        denial: str = "",
        *,
        known_domain: bool = True,
        notes: Notes | None = None,
    ) -> None:
        self._windows = windows
        self._descriptors = descriptors
        self._denial = self._denial_by_rules = denial
        self.held = held
        """What amends its descriptors, by their indexes."""
        self.version = 0
        """The version of the amendments that it was last compared with."""
        self._known_domain = known_domain
        self._notes = notes
        self._budgets = [
            index for index, each in enumerate(descriptors) if each.rule is not None and each.rule.budget
        ]
        self._most = min(
            [each.rule.max_charge for each in descriptors if each.rule is not None], default=COUNTER_MAX
        )
        self.weight = 900 + sum([_weight_of_descriptor(each) for each in descriptors]) + 400 * len(held)
        """The approximate bytes of memory that it takes."""
        self._begin = self._end = 0.0
        self._planned: list[PlannedDescriptor] = []
        self._hits: list[_PreparedHit] = []
        self._checks: list[Hit] | None = None
        """The hits of a plan of checks alone, once there was one."""

    def plan(self, request: Request, now: int, jitter: Jitter) -> Plan:
        """Return the plan of a request with this key."""
        if not self._begin <= now < self._end:
            self._enter_windows(now)
        descriptors, default = request.descriptors, request.hits_addend
        addends: list[int] = []
        incomplete = large = False
        most = self._most
        for descriptor in descriptors:
            addend = descriptor.hits_addend
            if addend is None:
                incomplete = True
                addend = default or 1
            if addend > most:
                large = True
            addends.append(-addend if descriptor.negative else addend)
        without_addend: Sequence[int] = ()
        if incomplete and not default and self._budgets:
            without_addend = [index for index in self._budgets if descriptors[index].hits_addend is None]
            for index in without_addend:
                addends[index] = 0
        denial = self._denial
        excess: Sequence[int] = ()
        if large:
            excess, denial = self._bound(addends)
        return Plan(
            request,
            self._planned,
            addends,
            self._hits_of(addends, now, jitter, denial) if any(addends) else self._hits_of_checks(),
            now,
            self._known_domain,
            denial,
            without_addend,
            self._notes,
            excess,
        )

    def _bound(self, addends: list[int]) -> tuple[Sequence[int], str]:
        """Bound addends by the max_charge of their rules.

        Return the indexes of those above it, and why the rules refuse the request.
        """
        denial = self._denial
        excess = []
        for index, (addend, each) in enumerate(zip(addends, self._descriptors, strict=True)):
            rule = each.rule
            most = COUNTER_MAX if rule is None else rule.max_charge
            if abs(addend) <= most:
                continue
            if rule is not None and most < COUNTER_MAX:
                excess.append(index)
            if rule is not None and rule.refuse_larger:
                addends[index] = 0
                denial = denial or "its cost is more than max_charge allows"
            else:
                addends[index] = most if addend > 0 else -most
        return excess, denial

    def _hits_of_checks(self) -> list[Hit]:
        if self._checks is None:
            self._checks = [prepared.check() for prepared in self._hits]
        return self._checks

    def _hits_of(self, addends: Sequence[int], now: int, jitter: Jitter, denial: str) -> list[Hit]:
        hits = []
        for prepared in self._hits:
            addend, gate = addends[prepared.descriptor], prepared.gate
            if not addend or (gate & Gate.HOLDS and addend > 0 and denial):
                hits.append(prepared.check())
                continue
            # A call of the class, which names the time to live, takes four times as long.
            hit = _new(Hit)
            hit.key = prepared.key
            hit.amount = addend
            hit.ttl = prepared.end - now + jitter()
            hit.limit = prepared.limit
            hit.gate = gate if addend > 0 else Gate.NONE
            hits.append(hit)
        return hits

    def _enter_windows(self, now: int) -> None:
        """Compute the windows at `now`, and what depends on them."""
        begin, end = -math.inf, math.inf
        spans, near = self._windows.spans, self._windows.near
        planned: list[PlannedDescriptor] = []
        hits: list[_PreparedHit] = []
        self._denial = self._denial_by_rules
        for index, each in enumerate(self._descriptors):
            held = self.held.get(index)
            if isinstance(each, PlannedDescriptor):
                if held is not None:
                    block = block_of(held, now)
                    begin, end = max(begin, block.begin), min(end, block.end)
                    if block.blocked:
                        each = PlannedDescriptor(denied=True, blocked=True, amendments=block.by)
                        self._denial = self._denial or BLOCKED
                planned.append(each)
                continue
            amendments: tuple[Amendment, ...] = ()
            room: Sequence[int] = ()
            if held is not None:
                rule, room, since, until, amendments = self._windows.amended.amend(each.rule, held, now)
                begin, end = max(begin, since), min(end, until)
                each = each.by(rule)
            windows: list[PlannedWindow] = []
            for number, limit in enumerate(each.rule.limits):
                amount = room[number] if room else limit.amount
                first, last, label = spans.at(limit.window, now)
                if first > begin:
                    begin = first
                if last < end:
                    end = last
                windows.append(PlannedWindow(limit, amount, last, len(hits), near(limit.amount)))
                hits.append(_PreparedHit(f"{each.bucket}:{label}", first, last, index, amount, each.gate))
            planned.append(
                PlannedDescriptor(
                    each.rule, each.stat, tuple(windows), quota=each.quota, amendments=amendments
                )
            )
        self._planned, self._hits, self._checks = planned, hits, None
        self._begin, self._end = begin, end


def _weight_of_descriptor(descriptor: PlannedDescriptor | LimitedDescriptor) -> int:
    if isinstance(descriptor, PlannedDescriptor):
        return 100
    levels = descriptor.stat.levels if descriptor.stat is not descriptor.rule.path else ()
    windows = len(descriptor.rule.limits) * (450 + 2 * len(descriptor.bucket))
    return 300 + len(descriptor.bucket) + windows + sum([60 + 4 * len(level) for level in levels])


def weight_of_prepared(key: bytes, prepared: PreparedRequest) -> int:
    """Return the approximate bytes of memory of a prepared request and its key."""
    return prepared.weight + len(key)
