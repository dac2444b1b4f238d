"""From a request to the counters that it touches.

plan(tree, policy, request, now, spans, jitter) -> Plan        pure: nothing is counted yet
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from . import keys
from .errors import InvalidRequest, NotReady
from .matcher import Match, RuleTree, stat_of_entries
from .model import COUNTER_MAX, Descriptor, Gate, Hit, Limit, Override, Request, Rule, StatKey, Unit, Window
from .windows import Span, Spans

Jitter = Callable[[], int]
"""How many seconds longer than its window a new counter is kept; spreads expiry over time."""


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


class Item(NamedTuple):
    """One descriptor of a planned request.

    Without a `limit` nothing is counted for it. `hits` is its share of the request's hits, below 0 for a refund;
    `hit` is the place of its counter among the plan's hits.
    """

    rule: Rule | None = None
    limit: Limit | None = None
    stat: StatKey | None = None
    span: Span | None = None
    hits: int = 0
    hit: int = -1
    quota: bool = False


_UNLIMITED_BY_NOTHING = Item()

OVERRIDE_SOURCE = "the request"
"""The source of a rule that is no rule of the configuration, but made of a limit that the request brings with it."""


class Plan(NamedTuple):
    """What a request asks of the store, and what is needed to decide on it afterwards."""

    request: Request
    items: list[Item]
    hits: list[Hit]
    now: int
    known_domain: bool = True


def make_plan(
    tree: RuleTree | None, policy: Policy, request: Request, now: int, spans: Spans, jitter: Jitter
) -> Plan:
    """Match every descriptor of `request` and list the counters that it touches.

    Raises NotReady where there are no rules yet, InvalidRequest for a request that cannot be decided.
    """
    if not request.domain:
        raise InvalidRequest("the domain of a request must not be empty")
    if not request.descriptors:
        raise InvalidRequest("a request needs at least one descriptor")
    if tree is None:
        raise NotReady("no configuration has been loaded yet")
    if request.domain not in tree.domains:
        for descriptor in request.descriptors:
            if descriptor.override:
                _override_limit(descriptor.override)
        return Plan(request, [_UNLIMITED_BY_NOTHING] * len(request.descriptors), [], now, known_domain=False)

    matches = [_meet(tree, request.domain, descriptor) for descriptor in request.descriptors]
    replaced: set[str] = set()
    for match in matches:
        if match is not None and match.rule.replaces:
            replaced |= match.rule.replaces

    items: list[Item] = []
    hits: list[Hit] = []
    for descriptor, match in zip(request.descriptors, matches, strict=True):
        if match is None or (replaced and match.rule.name in replaced):
            items.append(Item(quota=policy.quota_mode))
            continue
        rule = match.rule
        amount = _amount(descriptor, request)
        if rule.unlimited:
            items.append(Item(rule, stat=match.stat, hits=amount))
            continue
        limit = rule.limits[0]
        span = spans.at(limit.window, now)
        bucket = keys.bucket(policy.key_prefix, request.domain, match.parts)
        quota = rule.quota or policy.quota_mode
        items.append(Item(rule, limit, match.stat, span, amount, len(hits), quota))
        hits.append(
            Hit(
                f"{bucket}:{span.label}",
                amount,
                max(1, span.end - now) + jitter(),
                limit.amount,
                _gate(policy, rule, quota) if amount >= 0 else Gate.NONE,
            )
        )
    return Plan(request, items, hits, now)


def _meet(tree: RuleTree, domain: str, descriptor: Descriptor) -> Match | None:
    """The configured rule, or the one that the descriptor brings with it; that one needs no configured rule beside it."""
    if descriptor.override is None:
        return tree.match(domain, descriptor.entries)
    limit = _override_limit(descriptor.override)
    stat = stat_of_entries(domain, descriptor.entries)
    parts = tuple([keys.part(*entry) for entry in descriptor.entries])
    return Match(Rule(stat, (limit,), source=OVERRIDE_SOURCE), parts, stat)


def _override_limit(override: Override) -> Limit:
    if not Unit.SECOND <= override.unit <= Unit.WEEK:
        raise InvalidRequest(
            f"a limit override has the unknown unit {override.unit}: use 1 (second) to 7 (week)"
        )
    return Limit(override.amount, Window(Unit(override.unit), max(1, override.multiplier)))


def _amount(descriptor: Descriptor, request: Request) -> int:
    """The hits of a descriptor: its own where it has some (0 is a check), else the request's, of which 0 means 1."""
    hits = descriptor.hits if descriptor.hits is not None else max(1, request.hits)
    hits = min(hits, COUNTER_MAX)
    return -hits if descriptor.negative else hits


def _gate(policy: Policy, rule: Rule, quota: bool) -> int:
    """With STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT a refused request is held back from the counters that have room.

    Rules that refuse nobody, shadow and quota ones, do not hold others back: upstream lets them, and so one of them
    freezes the counters of the rules that are enforced.
    """
    if not policy.stop_when_over:
        return Gate.NONE
    return Gate.YIELDS if rule.shadow or quota else Gate.REFUSES | Gate.YIELDS
