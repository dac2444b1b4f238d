"""From a request to the counters that it touches.

make_plan(tree, policy, request, now, spans, jitter) -> Plan        pure: nothing is counted yet
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from . import keys
from .errors import InvalidRequest, NotReady
from .matcher import Domain, Match, RuleTree
from .model import COUNTER_MAX, Descriptor, Gate, Hit, Limit, Request, Rule, StatKey
from .overrides import overridden, override_limit
from .text import excerpt, show
from .windows import Span, Spans

Jitter = Callable[[], int]
"""How many seconds longer than its window a new counter is kept; spreads expiry over time."""

MOST_DESCRIPTORS = 1_000
MOST_ENTRIES = 100
"""A request with more than this is refused: no gateway sends one, and planning it would keep other callers waiting."""


class FailureMode(enum.Enum):
    """What a request is answered with where its counters cannot be reached: an error, on which the gateway's own failure
    mode decides; OK; or OVER_LIMIT."""

    ERROR = "error"
    ALLOW = "allow"
    DENY = "deny"


_LONGEST_SHOWN, _MOST_SHOWN = 200, 20
"""Bytes of a text, and entries of a descriptor, that people are shown."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for all rules: the settings that change an answer."""

    near_limit_ratio: float = 0.8
    shadow_mode: bool = False
    quota_mode: bool = False
    stop_when_over: bool = False
    """STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: a refused request is counted only where it is over the limit."""
    key_prefix: str = ""
    limit_header: str = ""
    remaining_header: str = ""
    reset_header: str = ""
    """The names of the three headers, lower-cased or not, as set; empty where they are off."""
    dynamic_metadata: bool = False
    refusal_headers: frozenset[str] = frozenset()
    """Which headers a refused caller gets (denial.HEADERS)."""
    refusal_body: bool = False
    """Whether a refused caller gets a body that says why."""
    failure_mode: FailureMode = FailureMode.ERROR
    """What a request is answered with where its counters cannot be reached."""


class Charge(NamedTuple):
    """One window of one limit that a descriptor counts in; `hit` is the place of its counter among the plan's hits."""

    limit: Limit
    span: Span
    hit: int


class Item(NamedTuple):
    """One descriptor of a planned request.

    Without `charges` nothing is counted for it. `hits` is its share of the request's hits, below 0 for a refund;
    `cost_missing` where the rule is a budget and the descriptor did not say what it costs.
    """

    rule: Rule | None = None
    stat: StatKey | None = None
    hits: int = 0
    charges: tuple[Charge, ...] = ()
    quota: bool = False
    cost_missing: bool = False
    denied: bool = False
    """It meets no rule, and its domain refuses that."""


class Plan(NamedTuple):
    """What a request asks of the store, and what is needed to decide on it afterwards."""

    request: Request
    items: list[Item]
    hits: list[Hit]
    now: int
    known_domain: bool = True
    denied: str = ""
    """Why the request is refused whatever the counters hold; empty where it is not."""


_FREE, _FREE_QUOTA = Item(), Item(quota=True)


def make_plan(
    tree: RuleTree | None, policy: Policy, request: Request, now: int, spans: Spans, jitter: Jitter
) -> Plan:
    """Match every descriptor of `request` and list the counters that it touches.

    Raises NotReady where there are no rules yet, InvalidRequest for a request that cannot be decided.
    """
    _check(request)
    if tree is None:
        raise NotReady("no configuration has been loaded yet")
    domain = tree.domains.get(request.domain)
    if domain is None:
        return Plan(request, [_FREE] * len(request.descriptors), [], now, known_domain=False)

    matches = [_meet(domain, descriptor) for descriptor in request.descriptors]
    replaced: set[str] = set()
    for match in matches:
        if match is not None and match.rule.replaces:
            replaced |= match.rule.replaces

    free = _FREE_QUOTA if policy.quota_mode else _FREE
    denied = _lacking(domain, request) if domain.required_keys else ""
    items: list[Item] = []
    hits: list[Hit] = []
    for descriptor, match in zip(request.descriptors, matches, strict=True):
        if match is None:
            if domain.deny_unmatched:
                denied = denied or f"no rule is for {described(descriptor)}"
                items.append(Item(denied=True))
            else:
                items.append(free)
            continue
        rule = match.rule
        if replaced and rule.name in replaced:
            items.append(free)
            continue
        cost_missing = rule.budget and descriptor.hits is None and not request.hits
        amount = 0 if cost_missing else _amount(descriptor, request)
        if rule.unlimited:
            items.append(Item(rule, match.stat, amount))
            continue
        quota = rule.quota or policy.quota_mode
        gate = _gate(policy, rule, quota) if amount >= 0 else Gate.NONE
        bucket = keys.bucket(policy.key_prefix, request.domain, match.parts)
        charges = []
        for limit in rule.limits:
            span = spans.at(limit.window, now)
            charges.append(Charge(limit, span, len(hits)))
            ttl = max(1, span.end - now) + jitter()
            hits.append(Hit(f"{bucket}:{span.label}", amount, ttl, limit.amount, gate))
        items.append(Item(rule, match.stat, amount, tuple(charges), quota, cost_missing))
    if denied:
        hits = [hit._replace(amount=0) if hit.gate & Gate.HOLDS else hit for hit in hits]
    return Plan(request, items, hits, now, denied=denied)


def described(descriptor: Descriptor) -> str:
    """A descriptor as people may see it: `team=dba,model=gpt-x`."""
    shown = [
        f"{excerpt(key, _LONGEST_SHOWN)}={excerpt(value, _LONGEST_SHOWN)}"
        for key, value in descriptor.entries[:_MOST_SHOWN]
    ]
    return ",".join(shown)


def _check(request: Request) -> None:
    if not request.domain:
        raise InvalidRequest("the domain of a request must not be empty")
    if not request.descriptors:
        raise InvalidRequest("a request needs at least one descriptor")
    if len(request.descriptors) > MOST_DESCRIPTORS:
        raise InvalidRequest(
            f"a request may have {MOST_DESCRIPTORS} descriptors, not {len(request.descriptors)}"
        )
    for descriptor in request.descriptors:
        if len(descriptor.entries) > MOST_ENTRIES:
            raise InvalidRequest(
                f"a descriptor may have {MOST_ENTRIES} entries, not {len(descriptor.entries)}"
            )
        if descriptor.override is not None:
            override_limit(descriptor.override)


def _meet(domain: Domain, descriptor: Descriptor) -> Match | None:
    """The configured rule, or what the limit that the descriptor brings with it makes of it."""
    match = domain.match(descriptor.entries)
    return (
        match if descriptor.override is None else overridden(domain, descriptor, descriptor.override, match)
    )


def _lacking(domain: Domain, request: Request) -> str:
    """Why the request is refused for a key that none of its descriptors has; empty where all are there."""
    present = {entry.key for descriptor in request.descriptors for entry in descriptor.entries}
    missing = [show(key) for key in domain.required_keys if key not in present]
    return f"no descriptor has the key {_listed(missing)}" if missing else ""


def _listed(names: Iterable[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _amount(descriptor: Descriptor, request: Request) -> int:
    """The hits of a descriptor: its own where it has some (0 is a check), else the request's, of which 0 means 1."""
    hits = descriptor.hits if descriptor.hits is not None else max(1, request.hits)
    hits = min(hits, COUNTER_MAX)
    return -hits if descriptor.negative else hits


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
