"""What a request is but for its hits_addends and the time; the planner makes plans of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .amendments.amended_rules import BLOCKED, DescriptorAmendments, block_of
from .gates import Gate
from .hit import Hit
from .holds.hit import HoldHit
from .holds.planning import End, Holding, HoldRequest, PlannedHold, has_seconds, hold_key, plan_holds
from .ledger.entries import Period, Record
from .ledger.entries import record as where
from .matching.overrides import OVERRIDE_SOURCE
from .model import COUNTER_MAX, Descriptor, Request, Rule, StatKey
from .plan import AnswerExtras, Plan, PlannedDescriptor
from .rule_windows import SharedHit, Windows

Jitter = Callable[[], int]
"""Seconds that a new counter outlives its window, so that counters do not all expire at once."""

_HOLDS, _LEDGER = Gate.HOLDS, Gate.LEDGER


class LimitedDescriptor:
    """A descriptor that a rule limits, before its windows are known."""

    __slots__ = ("bucket", "rule", "stat")

    def __init__(self, rule: Rule, stat: StatKey, bucket: str) -> None:
        self.rule = rule
        self.stat = stat
        self.bucket = bucket


class PreparedRequest:
    """A request but for its hits_addends and the time, with the windows of its last plan."""

    __slots__ = (
        "_begin",
        "_checks",
        "_denial",
        "_denial_by_rules",
        "_descriptors",
        "_end",
        "_hits",
        "_hold_keys",
        "_holdings",
        "_keys",
        "_known_domain",
        "_most",
        "_notes",
        "_planned",
        "_records",
        "_windows",
        "held",
        "version",
        "weight",
    )

    def __init__(
        self,
        windows: Windows,
        descriptors: Sequence[PlannedDescriptor | LimitedDescriptor],
        held: Mapping[int, DescriptorAmendments],
        denial: str = "",
        *,
        known_domain: bool = True,
        notes: AnswerExtras | None = None,
        holdings: Sequence[Holding | None] = (),
    ) -> None:
        self._holdings = holdings
        """For each descriptor its holds; empty if no rule has any."""
        self._windows = windows
        self._descriptors = tuple(descriptors)
        self._denial = self._denial_by_rules = denial
        self.held = held
        """What amends its descriptors, by their indexes."""
        self.version = 0
        """The version of the amendments that it was last compared with."""
        self._known_domain = known_domain
        self._notes = notes
        most, weight, shares = COUNTER_MAX, 550, not windows.crowded
        if held:
            weight, shares = weight + 400 * len(held), False
        self._hold_keys: Sequence[str] = ()
        """Those of `hold_keys`, if a rule has holds: only then most plans need them."""
        if holdings:
            self._hold_keys = self.hold_keys()
            weight += sum([360 + len(key) for key in self._hold_keys])
        for each in descriptors:
            if isinstance(each, LimitedDescriptor):
                rule = each.rule
                weight += _weight_of(each, rule, shares)
                if rule.max_charge < most:
                    most = rule.max_charge
            else:
                weight += 20
                if each.rule is not None and each.rule.max_charge < most:
                    most = each.rule.max_charge
        self._most = most
        """The least max_charge of its rules."""
        self.weight = weight
        """The approximate bytes of memory that it takes."""
        self._begin = self._end = 0.0
        self._planned: Sequence[PlannedDescriptor] = ()
        self._keys: tuple[str, ...] = ()
        self._hits: Sequence[SharedHit] = ()
        self._records: tuple[Record | None, ...] = ()
        """Where each hit is recorded in a ledger; empty if no rule has one."""
        self._checks: list[Hit] | None = None
        """The hits of a plan of checks alone, once there was one."""

    def plan(
        self,
        request: Request,
        now: int,
        jitter: Jitter,
        ends: Sequence[End] = (),
        releases: Sequence[HoldHit] = (),
    ) -> Plan:
        """Return the plan of a request with this key.

        `ends` has what came back with its descriptors, and `releases` the hits that end holds in other
        buckets.
        """
        if now < self._begin or now >= self._end:
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
        if incomplete and not default:
            without_addend = self._budgets_without_addend(descriptors)
            for index in without_addend:
                addends[index] = 0
        denial = self._denial
        excess: Sequence[int] = ()
        if large:
            excess, denial = self._bound(addends)
        hits = self._hits_of(addends, now, jitter, denial) if any(addends) else self._hits_of_checks()
        holds: Sequence[PlannedHold] = ()
        if self._holdings or ends:
            asked = HoldRequest(request, addends, without_addend, now, ends, denied=bool(denial))
            more, holds = plan_holds(
                self._holdings or self._no_holdings(), self._hold_keys or self.hold_keys(), asked, len(hits)
            )
            hits = [*hits, *more, *releases]
        return Plan(
            request,
            self._planned,
            addends,
            hits,
            now,
            self._known_domain,
            denial,
            without_addend,
            self._notes,
            excess,
            holds,
        )

    def _no_holdings(self) -> Sequence[Holding | None]:
        return [None] * len(self._descriptors)

    def hold_keys(self) -> list[str]:
        """Return the key of the holds of each descriptor; empty where it can have none."""
        return [
            "" if isinstance(each, PlannedDescriptor) or has_seconds(each.rule) else hold_key(each.bucket)
            for each in self._descriptors
        ]

    def _budgets_without_addend(self, descriptors: Sequence[Descriptor]) -> Sequence[int]:
        return [
            index
            for index, (descriptor, each) in enumerate(zip(descriptors, self._descriptors, strict=True))
            if descriptor.hits_addend is None and each.rule is not None and each.rule.budget
        ]

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
            self._checks = [_check(key, shared) for key, shared in zip(self._keys, self._hits, strict=True)]
        return self._checks

    def _hits_of(self, addends: list[int], now: int, jitter: Jitter, denial: str) -> list[Hit]:
        hits: list[Hit] = []
        keys, records = self._keys, self._records
        shared: SharedHit
        for index, shared in enumerate(self._hits):
            addend, gate = addends[shared.descriptor], shared.gate
            if not addend or (gate & _HOLDS and addend > 0 and denial):
                hits.append(_check(keys[index], shared))
                continue
            # A call of the class, which names the time to live, takes four times as long.
            hit = Hit.__new__(Hit)
            hit.gate = gate if addend > 0 else 0
            hit.into = None
            if records and records[index] is not None:
                hit.gate |= _LEDGER
                hit.into = records[index]
            hit.key = keys[index]
            hit.amount = addend
            hit.ttl = shared.end - now + jitter()
            hit.limit = shared.limit
            hits.append(hit)
        return hits

    def _enter_windows(self, now: int) -> None:
        """Compute the windows at `now`, and what depends on them."""
        if (
            len(self._descriptors) == 1
            and not self.held
            and not self._holdings
            and self._enter_windows_of_one(now)
        ):
            return
        begin, end = -math.inf, math.inf
        held, windows = self.held, self._windows
        planned: list[PlannedDescriptor] = []
        keys: list[str] = []
        hits: list[SharedHit] = []
        records: dict[int, Record] = {}
        """By the indexes of the hits that carry them."""
        self._denial = self._denial_by_rules
        for index, each in enumerate(self._descriptors):
            amended = held.get(index) if held else None
            if isinstance(each, PlannedDescriptor):
                if amended is not None:
                    block = block_of(amended, now)
                    begin, end = max(begin, block.begin), min(end, block.end)
                    if block.blocked:
                        each = PlannedDescriptor(denied=True, blocked=True, amendments=block.by)
                        self._denial = self._denial or BLOCKED
                planned.append(each)
                continue
            if amended is None:
                shared = windows.of(each.rule, index, len(hits), now)
            else:
                rule, room, since, until, amendments = windows.amended_rules.amend(each.rule, amended, now)
                begin, end = max(begin, since), min(end, until)
                shared = windows.make(rule, index, len(hits), now, room, amendments)
            if shared.begin > begin:
                begin = shared.begin
            if shared.end < end:
                end = shared.end
            holding = self._holdings[index] if self._holdings else None
            if holding is not None:
                holding.amount = min([hit.limit for hit in shared.hits])
                holding.end = min([hit.end for hit in shared.hits])
            planned.append(
                shared.planned if each.stat is shared.planned.stat else shared.planned.counted_as(each.stat)
            )
            if shared.period is not None:
                records[len(hits) + shared.longest] = _record(each, shared.period)
            keys += [f"{each.bucket}:{hit.label}" for hit in shared.hits]
            hits += shared.hits
        self._planned, self._keys, self._hits, self._checks = planned, tuple(keys), hits, None
        self._records = tuple([records.get(at) for at in range(len(hits))]) if records else ()
        self._begin, self._end = begin, end

    def _enter_windows_of_one(self, now: int) -> bool:
        """Do the same for the only descriptor of a request, if nothing but its keys is its own."""
        each = self._descriptors[0]
        if isinstance(each, PlannedDescriptor):
            return False
        rule, bucket = each.rule, each.bucket
        if each.stat is not rule.path:
            return False
        shared = self._windows.of(rule, 0, 0, now)
        self._planned, self._hits, self._checks = shared.alone, shared.hits, None
        self._keys = tuple([f"{bucket}:{hit.label}" for hit in shared.hits])
        if shared.period is not None:
            record = _record(each, shared.period)
            self._records = tuple(
                [record if at == shared.longest else None for at in range(len(shared.hits))]
            )
        self._begin, self._end = shared.begin, shared.end
        return True


def _record(limited: LimitedDescriptor, period: Period) -> Record:
    assert limited.rule.ledger is not None  # then it has a period
    return where(limited.bucket, period, limited.rule.ledger.life)


def _check(key: str, shared: SharedHit) -> Hit:
    """Return the hit for a check, which can be any second of the window."""
    return Hit(key, 0, ttl=shared.end - shared.start, limit=shared.limit, gate=shared.gate)


def _weight_of(descriptor: LimitedDescriptor, rule: Rule, shares: bool) -> int:
    """Return the bytes of a descriptor; `shares` is whether other buckets of its rule have its windows."""
    bucket, limits = len(descriptor.bucket), len(rule.limits)
    weight = 150 + bucket + limits * (250 + bucket)
    if not shares or rule.source == OVERRIDE_SOURCE:
        weight += 600 + 250 * limits
    if rule.ledger is not None:
        weight += 280 + 2 * bucket
    if descriptor.stat is not rule.path:
        weight += 250 + sum([60 + 4 * len(level) for level in descriptor.stat.levels])
    return weight


def weight_of_prepared(key: bytes, prepared: PreparedRequest) -> int:
    """Return the approximate bytes of memory of a prepared request and its key."""
    return prepared.weight + len(key)
