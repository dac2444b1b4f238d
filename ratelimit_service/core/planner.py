"""From a request to its plan: the counters that it touches, and what deciding on it takes.

    Planner(tree, policy, jitter).plan(request, now) -> Plan        pure: nothing is counted yet

A PreparedRequest is what neither the hits_addends of a request nor the time changes: the matched rules, the
buckets and the gates. Requests with one key (model.Request.key) share it. All caches belong to the planner,
and a reload makes a new planner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from .bounds import RequestBounds
from .errors import InvalidRequest, NotReady
from .matching import keys
from .matching.overrides import overridden, override_limit
from .matching.tree import Domain, Match, RuleTree
from .model import COUNTER_MAX, Descriptor, Gate, Hit, Request, Rule, StatKey
from .planning import Notes, Plan, PlannedDescriptor, PlannedWindow, Policy, descriptor_text, near_limit
from .recent import MIB, Recent
from .text import either, show
from .windows.blocks import Spans

Jitter = Callable[[], int]
"""Seconds that a new counter outlives its window, so that counters do not all expire at once."""

_PREPARED_BYTES = 8 * MIB
"""The memory of the prepared requests."""
_PLANS_BYTES = 2 * MIB
"""The memory of the plans of one second."""
_MOST_NEAR_LIMITS = 1_000
"""The cached results of near_limit."""

_FREE, _FREE_QUOTA = PlannedDescriptor(), PlannedDescriptor(quota=True)
_REPLACED, _REPLACED_QUOTA = PlannedDescriptor(replaced=True), PlannedDescriptor(quota=True, replaced=True)

_METADATA_ONLY = Notes()
MOST_EXPLAINED = 10
"""An answer with more descriptors is not explained: explaining one takes about as long as deciding on ten."""
_MOST_DOMAINS = 50
"""The domains that an explanation names."""


class Planner:
    """Plans requests by one set of rules. `tree` is None until the first rules are loaded."""

    def __init__(self, tree: RuleTree | None, policy: Policy, jitter: Jitter) -> None:
        self._tree = tree
        self._policy = policy
        self._jitter = jitter
        self._windows = _Windows(policy.near_limit_ratio)
        self._prepared: Recent[bytes, PreparedRequest] = Recent(_PREPARED_BYTES, _weight_of_prepared)
        self._second = 0
        self._weight_of_plans = 0
        self._plans: dict[int, Plan] = {}
        """The plans of this second, by the id of their requests. A plan keeps its request alive."""

    def plan(self, request: Request, now: int) -> Plan:
        """Match each descriptor of `request`, and return its hits at `now`, in seconds since 1970.

        Raises NotReady if no rules are loaded, and InvalidRequest for a request that cannot be decided.
        """
        if now != self._second:
            self._second, self._plans, self._weight_of_plans = now, {}, 0
        plan = self._plans.get(id(request))
        if plan is not None:
            return plan
        key = request.key
        if not key:
            return self._prepare(request).plan(request, now, self._jitter)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(request)
            self._prepared.put(key, prepared)
        plan = prepared.plan(request, now, self._jitter)
        self._weight_of_plans += prepared.weight
        if self._weight_of_plans > _PLANS_BYTES:
            self._plans.clear()
            self._weight_of_plans = prepared.weight
        self._plans[id(request)] = plan
        return plan

    @property
    def cached(self) -> Iterator[object]:
        """All plans and prepared requests: so many that releasing them at once takes milliseconds."""
        yield from self._plans.values()
        yield from self._prepared.values()

    def _prepare(self, request: Request) -> PreparedRequest:
        _check(request, self._policy.bounds)
        if self._tree is None:
            raise NotReady("no configuration has been loaded yet")
        domain = self._tree.domains.get(request.domain)
        notes = self._notes(request, domain)
        if domain is None:
            free = [_FREE] * len(request.descriptors)
            return PreparedRequest(self._windows, free, known_domain=False, notes=notes)
        descriptors, denial = _match_all(self._policy, domain, request)
        return PreparedRequest(self._windows, descriptors, denial, notes=notes)

    def _notes(self, request: Request, domain: Domain | None) -> Notes | None:
        if not request.explain or len(request.descriptors) > MOST_EXPLAINED:
            return _METADATA_ONLY if self._policy.dynamic_metadata else None
        if domain is None:
            domains = self._tree.domains if self._tree is not None else ()
            return Notes(explain=True, domains=tuple(islice(domains, _MOST_DOMAINS)))
        return Notes(explain=True, missing_keys=tuple(_missing_keys(domain, request)))


class _Windows:
    """The current span of each window and the near limit of each amount, cached for all requests."""

    def __init__(self, near_limit_ratio: float) -> None:
        self._ratio = near_limit_ratio
        self._near: dict[int, int] = {}
        self.spans = Spans()

    def near(self, amount: int) -> int:
        """Return near_limit of `amount`."""
        near = self._near.get(amount)
        if near is None:
            if len(self._near) >= _MOST_NEAR_LIMITS:  # requests may bring any amount
                self._near.clear()
            near = self._near[amount] = near_limit(amount, self._ratio)
        return near


class _LimitedDescriptor(NamedTuple):
    """A descriptor that a rule limits, before its windows are known."""

    rule: Rule
    stat: StatKey
    bucket: str
    gate: int
    quota: bool


class _PreparedHit(NamedTuple):
    """A hit on one counter but for its amount and its time to live. `read` is the hit for a check."""

    key: str
    end: int
    descriptor: int
    limit: int
    gate: int
    read: Hit


class PreparedRequest:
    """A request but for its hits_addends and the time, with the windows of its last plan."""

    __slots__ = (
        "_begin",
        "_budgets",
        "_denial",
        "_descriptors",
        "_end",
        "_hits",
        "_known_domain",
        "_notes",
        "_planned",
        "_reads",
        "_windows",
        "weight",
    )

    def __init__(
        self,
        windows: _Windows,
        descriptors: Sequence[PlannedDescriptor | _LimitedDescriptor],
        denial: str = "",
        *,
        known_domain: bool = True,
        notes: Notes | None = None,
    ) -> None:
        self._windows = windows
        self._descriptors = descriptors
        self._denial = denial
        self._known_domain = known_domain
        self._notes = notes
        self._budgets = [
            index for index, each in enumerate(descriptors) if each.rule is not None and each.rule.budget
        ]
        self.weight = 800 + sum([_weight_of_descriptor(each) for each in descriptors])
        """The approximate bytes of memory that it takes."""
        self._begin = self._end = 0.0
        self._planned: list[PlannedDescriptor] = []
        self._hits: list[_PreparedHit] = []
        self._reads: list[Hit] = []

    def plan(self, request: Request, now: int, jitter: Jitter) -> Plan:
        """Return the plan of a request with this key."""
        if not self._begin <= now < self._end:
            self._enter_windows(now)
        descriptors, default = request.descriptors, request.hits
        addends: list[int] = []
        incomplete = False
        for descriptor in descriptors:
            addend = descriptor.hits
            if addend is None:
                incomplete = True
                addend = default or 1
            if addend > COUNTER_MAX:
                addend = COUNTER_MAX
            addends.append(-addend if descriptor.negative else addend)
        without_addend: Sequence[int] = ()
        if incomplete and not default and self._budgets:
            without_addend = [index for index in self._budgets if descriptors[index].hits is None]
            for index in without_addend:
                addends[index] = 0
        return Plan(
            request,
            self._planned,
            addends,
            self._hits_of(addends, now, jitter) if any(addends) else self._reads,
            now,
            self._known_domain,
            self._denial,
            without_addend,
            self._notes,
        )

    def _hits_of(self, addends: Sequence[int], now: int, jitter: Jitter) -> list[Hit]:
        hits = []
        for prepared in self._hits:
            addend, gate = addends[prepared.descriptor], prepared.gate
            if not addend or (gate & Gate.HOLDS and addend > 0 and self._denial):
                hits.append(prepared.read)
                continue
            ttl = prepared.end - now + jitter()
            gate = gate if addend > 0 else Gate.NONE
            hits.append(Hit(prepared.key, addend, ttl=ttl, limit=prepared.limit, gate=gate))
        return hits

    def _enter_windows(self, now: int) -> None:
        """Compute the windows at `now`, and what depends on them."""
        begin, end = -math.inf, math.inf
        planned: list[PlannedDescriptor] = []
        hits: list[_PreparedHit] = []
        for index, each in enumerate(self._descriptors):
            if isinstance(each, PlannedDescriptor):
                planned.append(each)
                continue
            windows: list[PlannedWindow] = []
            for limit in each.rule.limits:
                amount = limit.amount
                span = self._windows.spans.at(limit.window, now)
                begin, end = max(begin, span.start), min(end, span.end)
                near = self._windows.near(amount)
                windows.append(PlannedWindow(limit, amount, span.end, len(hits), near))
                key = f"{each.bucket}:{span.label}"
                read = Hit(key, 0, ttl=span.end - span.start, limit=amount, gate=each.gate)
                hits.append(_PreparedHit(key, span.end, index, amount, each.gate, read))
            planned.append(PlannedDescriptor(each.rule, each.stat, tuple(windows), quota=each.quota))
        self._planned, self._hits, self._reads = planned, hits, [each.read for each in hits]
        self._begin, self._end = begin, end


def _weight_of_descriptor(descriptor: PlannedDescriptor | _LimitedDescriptor) -> int:
    if isinstance(descriptor, PlannedDescriptor):
        return 100
    levels = descriptor.stat.levels if descriptor.stat is not descriptor.rule.path else ()
    windows = len(descriptor.rule.limits) * (450 + 2 * len(descriptor.bucket))
    return 300 + len(descriptor.bucket) + windows + sum([60 + 4 * len(level) for level in levels])


def _weight_of_prepared(key: bytes, prepared: PreparedRequest) -> int:
    return prepared.weight + len(key)


def _match_all(
    policy: Policy, domain: Domain, request: Request
) -> tuple[list[PlannedDescriptor | _LimitedDescriptor], str]:
    """Match each descriptor, and return why the rules refuse the request, or an empty text."""
    matches = [_match(domain, descriptor) for descriptor in request.descriptors]
    replaced: set[str] = set()
    for match in matches:
        if match is not None and match.rule.replaces:
            replaced |= match.rule.replaces

    unmatched = _FREE_QUOTA if policy.quota_mode else _FREE
    replaced_by_another = _REPLACED_QUOTA if policy.quota_mode else _REPLACED
    denial = _denial_for_missing_keys(domain, request) if domain.required_keys else ""
    found: list[PlannedDescriptor | _LimitedDescriptor] = []
    for descriptor, match in zip(request.descriptors, matches, strict=True):
        if match is None and domain.deny_unmatched:
            denial = denial or _denial_for_unmatched(policy, domain, descriptor)
            found.append(PlannedDescriptor(denied=True))
        elif match is None:
            found.append(unmatched)
        elif replaced and match.rule.name in replaced:
            found.append(replaced_by_another)
        elif match.rule.unlimited:
            found.append(PlannedDescriptor(match.rule, match.stat))
        else:
            quota = match.rule.quota or policy.quota_mode
            bucket = keys.bucket(policy.key_prefix, domain.name_in_keys, match.bucket_entries)
            gate = _gate(policy, match.rule, quota)
            found.append(_LimitedDescriptor(match.rule, match.stat, bucket, gate, quota))
    return found, denial


def _check(request: Request, bounds: RequestBounds) -> None:
    if not request.domain:
        raise InvalidRequest("the domain of a request must not be empty")
    if not request.descriptors:
        raise InvalidRequest("a request needs at least one descriptor")
    bounds.check(request.descriptors)
    for descriptor in request.descriptors:
        if descriptor.override is not None:
            override_limit(descriptor.override)


def _match(domain: Domain, descriptor: Descriptor) -> Match | None:
    """Return the match of a descriptor, after applying its override."""
    match = domain.match(descriptor.entries)
    if descriptor.override is None:
        return match
    return overridden(domain, descriptor, descriptor.override, match)


def _denial_for_unmatched(policy: Policy, domain: Domain, descriptor: Descriptor) -> str:
    minimal = policy.minimal(domain.error_details)
    return "no rule is for it" if minimal else f"no rule is for {descriptor_text(descriptor.entries)}"


def _denial_for_missing_keys(domain: Domain, request: Request) -> str:
    missing = [f"'{key}'" for key in _missing_keys(domain, request)]
    return f"no descriptor has the key {either(missing)}" if missing else ""


def _missing_keys(domain: Domain, request: Request) -> list[str]:
    """Return the keys that the domain requires and no descriptor has."""
    present = {entry.key for descriptor in request.descriptors for entry in descriptor.entries}
    return [show(key) for key in domain.required_keys if key not in present]


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
