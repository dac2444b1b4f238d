"""From a request to its plan: the counters that it touches, and what deciding on it takes.

    Planner(tree, policy, jitter).plan(request, now) -> Plan        pure: nothing is counted yet

A PreparedRequest is what neither the hits_addends of a request nor the time changes: the matched rules, the
buckets, the gates, and what amends them. Requests with one key (model.Request.key) share it. All caches
belong to the planner, and a reload makes a new planner. After a change of amendments, the affected entries
are prepared again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from .amendments.amended_rules import DescriptorAmendments
from .amendments.index import UNAMENDED, Amendments
from .bounds import RequestBounds
from .cache import MIB, BoundedCache
from .errors import InvalidRequest, NotReady
from .holds.ids import HoldIds
from .holds.planning import Holding, elsewhere, has_seconds, release, with_ends
from .holds.results import for_all_second
from .ledger.entries import Period
from .ledger.rule import LedgerRule
from .matching.keys import bucket as bucket_name
from .matching.overrides import overridden, override_limit
from .matching.tree import Domain, Match, RuleTree
from .model import Descriptor, Request, Rule
from .plan import (
    AnswerExtras,
    Plan,
    PlannedDescriptor,
    Policy,
    descriptor_text,
)
from .prepared import Jitter, LimitedDescriptor, PreparedRequest, weight_of_prepared
from .rule_windows import Windows
from .text import either, show

_PREPARED_BYTES = 8 * MIB
"""The memory of the prepared requests."""
_PLANS_BYTES = 2 * MIB
"""The memory of the plans of one second."""

_FREE, _FREE_QUOTA = PlannedDescriptor(), PlannedDescriptor(quota=True)
_REPLACED, _REPLACED_QUOTA = PlannedDescriptor(replaced=True), PlannedDescriptor(quota=True, replaced=True)

_NOT_HELD: Mapping[int, DescriptorAmendments] = {}
"""What amends a request that nothing amends: one object, because most requests are so."""

_METADATA_ONLY = AnswerExtras()
MOST_EXPLAINED = 10
"""An answer with more descriptors is not explained: explaining one takes about as long as deciding on ten."""
_MOST_DOMAINS = 50
"""The domains that an explanation names."""


class Planner:
    """Plans requests by one set of rules, as they are amended. `tree` is None until the first rules are
    loaded.

    `amendments` may change; `apply_amendments` must be called before the next plan.
    """

    def __init__(
        self,
        tree: RuleTree | None,
        policy: Policy,
        jitter: Jitter,
        amendments: Amendments | None = None,
        ids: HoldIds | None = None,
    ) -> None:
        self._ids = ids
        self._tree = tree
        self._amendments = amendments if amendments is not None else Amendments()
        self._version = self._amendments.version
        self._policy = policy
        self._no_notes = _METADATA_ONLY if policy.dynamic_metadata else None
        self._jitter = jitter
        self._windows = Windows(policy)
        self._prepared: BoundedCache[bytes, PreparedRequest] = BoundedCache(
            _PREPARED_BYTES, weight_of_prepared
        )
        self._second = 0
        self._weight_of_plans = 0
        self._plans: dict[int, Plan] = {}
        """The plans of this second for requests that repeat, by the id of these. A plan keeps its request
        alive.
        """

    def plan(self, request: Request, now: int) -> Plan:
        """Match each descriptor of `request`, and return its hits at `now`, in seconds since 1970.

        Raises NotReady if no rules are loaded, and InvalidRequest for a request that cannot be decided.
        """
        repeats = request.repeats
        if repeats:
            if now != self._second:
                self._second, self._plans, self._weight_of_plans = now, {}, 0
            kept = self._plans.get(id(request))
            if kept is not None:
                return kept
        if request.returned:
            return self._plan_returned(request, now)
        key = request.key
        if not key:
            return self._prepare(request).plan(request, now, self._jitter)
        prepared = self._prepared_for(request)
        plan = prepared.plan(request, now, self._jitter)
        if repeats:
            self._weight_of_plans += prepared.weight
            if self._weight_of_plans > _PLANS_BYTES:
                self._plans.clear()
                self._weight_of_plans = prepared.weight
            self._plans[id(request)] = plan if not plan.holds else for_all_second(plan)
        return plan

    def _prepared_for(self, request: Request) -> PreparedRequest:
        prepared = self._prepared.get(request.key)
        if prepared is None or prepared.version != self._version:
            prepared = self._renew(prepared, request)
        return prepared

    def _plan_returned(self, request: Request, now: int) -> Plan:
        """Return the plan of a request that brings something back. Each id is another one, so it is not
        kept.
        """
        request, ends = with_ends(request, self._ids, now)
        releases = []
        for issued, hold in elsewhere(request, ends):
            (key,) = self._prepare(Request(issued.domain, (Descriptor(hold.entries, 0),))).hold_keys()
            if key:
                releases.append(release(key, issued, hold, now))
        prepared = self._prepared_for(request) if request.key else self._prepare(request)
        return prepared.plan(request, now, self._jitter, ends, releases)

    def period(self, ledger: LedgerRule, now: int) -> Period:
        """Return the period of the entries that a ledger gets now."""
        return self._windows.period(ledger, now)

    @property
    def cached(self) -> Iterator[object]:
        """All plans, prepared requests and windows: so many that releasing them at once takes
        milliseconds.
        """
        yield from self._plans.values()
        yield from self._prepared.values()
        yield from self._windows.cached

    def apply_amendments(self) -> None:
        """Plan by the amendments as they are now."""
        self._version = self._amendments.version
        self._plans, self._weight_of_plans = {}, 0

    def _renew(self, before: PreparedRequest | None, request: Request) -> PreparedRequest:
        """Return the request prepared with the current amendments; the same object if these have not changed
        for it.
        """
        if before is not None and (
            self._amendments.version_of(request.domain) <= before.version
            or self._held(request) == before.held
        ):
            before.version = self._version
            return before
        prepared = self._prepare(request)
        self._prepared.put(request.key, prepared)
        return prepared

    def _prepare(self, request: Request) -> PreparedRequest:
        descriptors = request.descriptors
        _check(request.domain, descriptors, self._policy.bounds)
        tree = self._tree
        if tree is None:
            raise NotReady("no configuration has been loaded yet")
        domain: Domain | None = tree.domains.get(request.domain)
        explain = request.explain
        notes = self._notes(request, domain) if explain else self._no_notes
        held = self._held(request)
        if domain is None:
            free = [_FREE] * len(descriptors)
            prepared = PreparedRequest(self._windows, free, held, known_domain=False, notes=notes)
        else:
            limited, denial = _match_all(self._policy, domain, descriptors)
            if domain.signals and any([_signals(each) for each in limited]):
                notes = (notes or _METADATA_ONLY)._replace(signals=True)
            # A caller that asks for an explanation does not run the request.
            holdings = self._holdings(request, limited) if domain.holds and not explain else ()
            prepared = PreparedRequest(self._windows, limited, held, denial, notes=notes, holdings=holdings)
        prepared.version = self._version
        return prepared

    def _holdings(
        self, request: Request, limited: Sequence[PlannedDescriptor | LimitedDescriptor]
    ) -> Sequence[Holding | None]:
        """Return the holds of each descriptor; empty if no rule has any.

        A rule that refuses nothing, in shadow or quota mode, has none. Nor has a descriptor that is in the
        request twice: one request, one hold.
        """
        found: list[Holding | None] = []
        buckets = set()
        for index, (each, descriptor) in enumerate(zip(limited, request.descriptors, strict=True)):
            holding = None
            if (
                isinstance(each, LimitedDescriptor)
                and each.rule.hold is not None
                and self._refuses(each.rule)
                and each.bucket not in buckets
                and not has_seconds(each.rule)
            ):
                learned = self._windows.means.of(each.rule)
                entries = descriptor.entries
                holding = Holding(index, each.rule.hold, learned, each.bucket, request.domain, entries)
                if holding.names:
                    buckets.add(each.bucket)
                else:
                    holding = None
            found.append(holding)
        return found if buckets else ()

    def _refuses(self, rule: Rule) -> bool:
        return not (rule.shadow or rule.quota or self._policy.quota_mode)

    def _held(self, request: Request) -> Mapping[int, DescriptorAmendments]:
        """Return what amends each descriptor of a request, by the index of the descriptor."""
        name = request.domain
        domain: Domain | None = self._tree.domains.get(name) if self._tree is not None else None
        data = domain.limits if domain is not None else None
        if data is None and not self._amendments.version_of(name):  # there have never been any
            return _NOT_HELD
        found = {}
        for index, descriptor in enumerate(request.descriptors):
            entries = descriptor.entries
            if domain is not None and descriptor.override is None:
                entries = domain.entries_of_bucket(entries)
            stack = self._amendments.find(name, entries, data)
            if stack is not UNAMENDED:
                found[index] = DescriptorAmendments(stack, descriptor.override)
        return found or _NOT_HELD

    def _notes(self, request: Request, domain: Domain | None) -> AnswerExtras | None:
        """Return the extras of a request that asks for an explanation."""
        if len(request.descriptors) > MOST_EXPLAINED:
            return self._no_notes
        if domain is None:
            domains = self._tree.domains if self._tree is not None else ()
            return AnswerExtras(explain=True, domains=tuple(islice(domains, _MOST_DOMAINS)))
        return AnswerExtras(explain=True, missing_keys=tuple(_missing_keys(domain, request.descriptors)))


def _signals(descriptor: PlannedDescriptor | LimitedDescriptor) -> bool:
    return descriptor.rule is not None and descriptor.rule.signal != 0


def _match_all(
    policy: Policy, domain: Domain, descriptors: Sequence[Descriptor]
) -> tuple[list[PlannedDescriptor | LimitedDescriptor], str]:
    """Match each descriptor, and return why the rules refuse the request, or an empty text."""
    found: list[PlannedDescriptor | LimitedDescriptor] = []
    matches: list[Match | None] = [_match(domain, descriptor) for descriptor in descriptors]
    replaced = _replaced(matches) if domain.replaces else ()
    quota = policy.quota_mode
    denial = _denial_for_missing_keys(domain, descriptors) if domain.required_keys else ""
    match: Match | None
    for index, match in enumerate(matches):
        if match is None:
            if domain.deny_unmatched:
                denial = denial or _denial_for_unmatched(policy, domain, descriptors[index])
                found.append(PlannedDescriptor(denied=True))
            else:
                found.append(_FREE_QUOTA if quota else _FREE)
        elif replaced and match.rule.name in replaced:
            found.append(_REPLACED_QUOTA if quota else _REPLACED)
        elif match.rule.unlimited:
            found.append(PlannedDescriptor(match.rule, match.stat))
        else:
            bucket = bucket_name(policy.key_prefix, domain.name_in_keys, match.bucket_entries)
            found.append(LimitedDescriptor(match.rule, match.stat, bucket))
    return found, denial


def _replaced(matches: Sequence[Match | None]) -> Collection[str]:
    """Return the names of the rules that matched rules replace."""
    replaced: set[str] = set()
    for match in matches:
        if match is not None:
            replaced |= match.rule.replaces
    return replaced


def _check(domain: str, descriptors: Sequence[Descriptor], bounds: RequestBounds) -> None:
    if not domain:
        raise InvalidRequest("the domain of a request must not be empty")
    if not descriptors:
        raise InvalidRequest("a request needs at least one descriptor")
    bounds.check(descriptors)
    for descriptor in descriptors:
        override = descriptor.override
        if override is not None:
            override_limit(override)


def _match(domain: Domain, descriptor: Descriptor) -> Match | None:
    """Return the match of a descriptor, after applying its override."""
    match = domain.match(descriptor.entries)
    override = descriptor.override
    return match if override is None else overridden(domain, descriptor, override, match)


def _denial_for_unmatched(policy: Policy, domain: Domain, descriptor: Descriptor) -> str:
    minimal = policy.minimal(domain.error_details)
    return "no rule matches it" if minimal else f"no rule matches {descriptor_text(descriptor.entries)}"


def _denial_for_missing_keys(domain: Domain, descriptors: Sequence[Descriptor]) -> str:
    missing = [f"'{key}'" for key in _missing_keys(domain, descriptors)]
    return f"no descriptor has the key {either(missing)}" if missing else ""


def _missing_keys(domain: Domain, descriptors: Sequence[Descriptor]) -> list[str]:
    """Return the keys that the domain requires and no descriptor has."""
    present = {entry.key for descriptor in descriptors for entry in descriptor.entries}
    return [show(key) for key in domain.required_keys if key not in present]
