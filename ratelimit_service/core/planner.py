"""From a request to the counters that it touches.

    Planner(tree, policy, jitter).plan(request, now) -> Plan        pure: nothing is counted yet

What depends on neither the hits of a request nor the time is worked out once (Outline): which rules it meets, its buckets,
who may be refused. Requests that are known to be alike (model.Request.key) share it. A reload makes a new planner, and so
nothing of the rules before is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from .bounds import RequestBounds
from .errors import InvalidRequest, NotReady
from .matching import keys
from .matching.overrides import overridden, override_limit
from .matching.tree import Domain, Match, RuleTree
from .model import COUNTER_MAX, Descriptor, Gate, Hit, Request, Rule, StatKey, new
from .planning import Charge, Item, Notes, Plan, Policy, described, near_limit
from .recent import MIB, Recent
from .text import show
from .windows.blocks import Spans

Jitter = Callable[[], int]
"""How many seconds longer than its window a new counter is kept; spreads expiry over time."""

_OUTLINES = 8 * MIB
_PLANS = 2 * MIB
"""Bytes of memory of what is remembered of requests, and of the plans of one second."""

_FREE, _FREE_QUOTA = Item(), Item(quota=True)
_REPLACED, _REPLACED_QUOTA = Item(replaced=True), Item(quota=True, replaced=True)

_ANNOTATED = Notes()
MOST_EXPLAINED = 10
"""Descriptors of a request whose answer is explained: to explain one takes about as long as to decide on ten."""
_MOST_DOMAINS = 50
"""How many domains an explanation names."""


class Planner:
    """Plans requests by one set of rules; `tree` is None as long as there are none."""

    def __init__(self, tree: RuleTree | None, policy: Policy, jitter: Jitter) -> None:
        self._tree = tree
        self._policy = policy
        self._jitter = jitter
        self._spans = Spans()
        self._outlines: Recent[bytes, Outline] = Recent(_OUTLINES, _weight_of_outline)
        self._second = 0
        self._weight_of_plans = 0
        self._plans: dict[int, Plan] = {}
        """The plans of this second, by the identity of their requests, which nothing else has as long as they are in here."""

    def plan(self, request: Request, now: int) -> Plan:
        """Match every descriptor of `request` and list the counters that it touches at `now`, seconds since 1970.

        Raises NotReady where there are no rules yet, InvalidRequest for a request that cannot be decided.
        """
        if now != self._second:
            self._second, self._plans, self._weight_of_plans = now, {}, 0
        plan = self._plans.get(id(request))
        if plan is not None:
            return plan
        key = request.key
        if not key:
            return self._outline(request).plan(request, now, self._jitter)
        outline = self._outlines.get(key)
        if outline is None:
            outline = self._outline(request)
            self._outlines.put(key, outline)
        plan = outline.plan(request, now, self._jitter)
        self._weight_of_plans += outline.weight
        if self._weight_of_plans > _PLANS:
            self._plans.clear()
            self._weight_of_plans = outline.weight
        self._plans[id(request)] = plan
        return plan

    @property
    def remembered(self) -> Iterator[object]:
        """Plans and outlines: so many that to drop them together takes long."""
        yield from self._plans.values()
        yield from self._outlines.values()

    def _outline(self, request: Request) -> Outline:
        _check(request, self._policy.bounds)
        if self._tree is None:
            raise NotReady("no configuration has been loaded yet")
        domain = self._tree.domains.get(request.domain)
        notes = self._notes(request, domain)
        if domain is None:
            free = [_FREE] * len(request.descriptors)
            return Outline(self._policy, self._spans, free, known_domain=False, notes=notes)
        parts, denied = _parts(self._policy, domain, request)
        return Outline(self._policy, self._spans, parts, denied, notes=notes)

    def _notes(self, request: Request, domain: Domain | None) -> Notes | None:
        if not request.explain or len(request.descriptors) > MOST_EXPLAINED:
            return _ANNOTATED if self._policy.dynamic_metadata else None
        if domain is None:
            domains = self._tree.domains if self._tree is not None else ()
            return Notes(explain=True, domains=tuple(islice(domains, _MOST_DOMAINS)))
        return Notes(explain=True, missing_keys=tuple(_missing(domain, request)))


class _Limited(NamedTuple):
    """What one descriptor comes to that a rule limits."""

    rule: Rule
    stat: StatKey
    bucket: str
    gate: int
    quota: bool


_Slot = tuple[str, int, int, int, int, Hit]
"""One counter of a request: its key, the end of its window, the place of the descriptor, the limit, the gate, and the hit that
counts nothing."""


class Outline:
    """What a request comes to, whatever it costs and whenever it comes; with the windows that it was last planned in."""

    __slots__ = (
        "_begin",
        "_budgets",
        "_denied",
        "_end",
        "_items",
        "_known_domain",
        "_notes",
        "_parts",
        "_policy",
        "_reads",
        "_slots",
        "_spans",
        "weight",
    )

    def __init__(
        self,
        policy: Policy,
        spans: Spans,
        parts: Sequence[Item | _Limited],
        denied: str = "",
        *,
        known_domain: bool = True,
        notes: Notes | None = None,
    ) -> None:
        self._policy = policy
        self._spans = spans
        self._parts = parts
        self._denied = denied
        self._known_domain = known_domain
        self._notes = notes
        self._budgets = [
            place for place, part in enumerate(parts) if part.rule is not None and part.rule.budget
        ]
        self.weight = 800 + sum([_weight_of_part(part) for part in parts])
        """Bytes of memory that it takes, about."""
        self._begin = self._end = 0.0
        self._items: list[Item] = []
        self._slots: list[_Slot] = []
        self._reads: list[Hit] = []

    def plan(self, request: Request, now: int, jitter: Jitter) -> Plan:
        """The plan of a request with this outline."""
        if not self._begin <= now < self._end:
            self._enter(now)
        descriptors, addend = request.descriptors, request.hits
        costs: list[int] = []
        silent = False
        for _, own, _, negative in descriptors:
            # Its own hits where it has some (0 is a check), else the request's, of which 0 means 1.
            cost = own
            if cost is None:
                silent = True
                cost = addend or 1
            if cost > COUNTER_MAX:
                cost = COUNTER_MAX
            costs.append(-cost if negative else cost)
        unpriced: Sequence[int] = ()
        if silent and not addend and self._budgets:
            unpriced = [place for place in self._budgets if descriptors[place].hits is None]
            for place in unpriced:
                costs[place] = 0
        hits = self._hits(costs, now, jitter) if any(costs) else self._reads
        known, denied = self._known_domain, self._denied
        return new(Plan, (request, self._items, costs, hits, now, known, denied, unpriced, self._notes))

    def _hits(self, costs: Sequence[int], now: int, jitter: Jitter) -> list[Hit]:
        hits = []
        for key, end, place, limit, gate, read in self._slots:
            cost = costs[place]
            if not cost or (gate & Gate.HOLDS and cost > 0 and self._denied):
                hits.append(read)
            else:
                ttl = end - now + jitter()
                hits.append(Hit(key, cost, ttl=ttl, limit=limit, gate=gate if cost > 0 else Gate.NONE))
        return hits

    def _enter(self, now: int) -> None:
        """Work out the windows that `now` lies in."""
        begin, end = -math.inf, math.inf
        items: list[Item] = []
        slots: list[_Slot] = []
        for place, part in enumerate(self._parts):
            if isinstance(part, Item):
                items.append(part)
                continue
            charges: list[Charge] = []
            for limit in part.rule.limits:
                span = self._spans.at(limit.window, now)
                begin, end = max(begin, span.start), min(end, span.end)
                near = near_limit(limit.amount, self._policy.near_limit_ratio)
                charges.append((limit, limit.amount, span.end, len(slots), near))
                key = f"{part.bucket}:{span.label}"
                read = Hit(key, 0, ttl=span.end - span.start, limit=limit.amount, gate=part.gate)
                slots.append((key, span.end, place, limit.amount, part.gate, read))
            items.append(Item(part.rule, part.stat, tuple(charges), quota=part.quota))
        self._items, self._slots, self._reads = items, slots, [read for _, _, _, _, _, read in slots]
        self._begin, self._end = begin, end


def _weight_of_part(part: Item | _Limited) -> int:
    if isinstance(part, Item):
        return 100
    levels = part.stat.levels if part.stat is not part.rule.path else ()
    windows = len(part.rule.limits) * (450 + 2 * len(part.bucket))
    return 300 + len(part.bucket) + windows + sum([60 + 4 * len(level) for level in levels])


def _weight_of_outline(key: bytes, outline: Outline) -> int:
    return outline.weight + len(key)


def _parts(policy: Policy, domain: Domain, request: Request) -> tuple[list[Item | _Limited], str]:
    """What each descriptor comes to, and why the request is refused whatever the counters hold."""
    matches = [_meet(domain, descriptor) for descriptor in request.descriptors]
    replaced: set[str] = set()
    for match in matches:
        if match is not None and match.rule.replaces:
            replaced |= match.rule.replaces

    free = _FREE_QUOTA if policy.quota_mode else _FREE
    free_by_another = _REPLACED_QUOTA if policy.quota_mode else _REPLACED
    denied = _lacking(domain, request) if domain.required_keys else ""
    parts: list[Item | _Limited] = []
    for descriptor, match in zip(request.descriptors, matches, strict=True):
        if match is None and domain.deny_unmatched:
            denied = denied or _unmatched(policy, domain, descriptor)
            parts.append(Item(denied=True))
        elif match is None:
            parts.append(free)
        elif replaced and match.rule.name in replaced:
            parts.append(free_by_another)
        elif match.rule.unlimited:
            parts.append(Item(match.rule, match.stat))
        else:
            quota = match.rule.quota or policy.quota_mode
            bucket = keys.bucket(policy.key_prefix, request.domain, match.parts)
            gate = _gate(policy, match.rule, quota)
            parts.append(_Limited(match.rule, match.stat, bucket, gate, quota))
    return parts, denied


def _check(request: Request, bounds: RequestBounds) -> None:
    if not request.domain:
        raise InvalidRequest("the domain of a request must not be empty")
    if not request.descriptors:
        raise InvalidRequest("a request needs at least one descriptor")
    bounds.check(request.descriptors)
    for descriptor in request.descriptors:
        if descriptor.override is not None:
            override_limit(descriptor.override)


def _meet(domain: Domain, descriptor: Descriptor) -> Match | None:
    """The configured rule, or what the limit that the descriptor brings with it makes of it."""
    match = domain.match(descriptor.entries)
    return (
        match if descriptor.override is None else overridden(domain, descriptor, descriptor.override, match)
    )


def _unmatched(policy: Policy, domain: Domain, descriptor: Descriptor) -> str:
    """Why a descriptor that meets no rule is refused."""
    minimal = policy.minimal(domain.error_details)
    return "no rule is for it" if minimal else f"no rule is for {described(descriptor.entries)}"


def _lacking(domain: Domain, request: Request) -> str:
    """Why the request is refused for a key that none of its descriptors has; empty where all are there."""
    missing = _missing(domain, request)
    return f"no descriptor has the key {_listed(missing)}" if missing else ""


def _missing(domain: Domain, request: Request) -> list[str]:
    """The keys that the domain requires and none of the descriptors has."""
    present = {entry.key for descriptor in request.descriptors for entry in descriptor.entries}
    return [show(key) for key in domain.required_keys if key not in present]


def _listed(names: Iterable[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _gate(policy: Policy, rule: Rule, quota: bool) -> int:
    """How the hits of a rule take part in whether the request is counted.

    Rules that refuse nobody, shadow and quota ones, hold nothing back. With STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT
    upstream lets them, and so one of them freezes the counters of the rules that are enforced. A charge on a budget is
    counted whatever that setting says: what was used was used.
    """
    gate = Gate.BUDGET if rule.budget else Gate.NONE
    if not (rule.shadow or quota):
        gate |= Gate.REFUSES
    if not rule.count_refused:
        gate |= Gate.HOLDS
    if policy.stop_when_over and not rule.budget:
        gate |= Gate.YIELDS
    return gate
