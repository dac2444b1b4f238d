"""Metrics of a few rules, and requests that they count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratelimit_service.core.decision import decide
from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.holds.results import results
from ratelimit_service.core.holds.rule import HoldRule
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorRule,
    DomainRules,
    Entry,
    Limit,
    Override,
    Request,
    Rule,
    StatKey,
    Unit,
    Window,
)
from ratelimit_service.core.plan import Plan, Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import Outcome
from ratelimit_service.stores.memory import MemoryStore

from .replica import text_of

DAY = Window(Unit.DAY)
POLICY = Policy()


def rule(*levels: str, amount: int = 10, window: Window = DAY, **more: Any) -> Rule:
    return Rule(StatKey("d", levels), () if more.get("unlimited") else (Limit(amount, window),), **more)


TREE = RuleTree(
    [
        DomainRules(
            "d",
            (
                DescriptorRule(
                    b"team",
                    rule=rule("team"),
                    children=(
                        DescriptorRule(
                            b"user",
                            b"al",
                            rule("team", "user_al"),
                            children=(
                                DescriptorRule(b"model", b"a", rule("team", "user_al", "model_a")),
                                DescriptorRule(b"model", b"b", rule("team", "user_al", "model_b")),
                            ),
                        ),
                    ),
                ),
                DescriptorRule(b"quarter", rule=rule("quarter", window=Window(Unit.MINUTE, 15))),
                DescriptorRule(
                    b"free",
                    rule=rule("free", unlimited=True),
                    children=(DescriptorRule(b"user", rule=rule("free", "user", unlimited=True)),),
                ),
                DescriptorRule(
                    b"tried",
                    rule=rule("tried", shadow=True),
                    children=(DescriptorRule(b"user", rule=rule("tried", "user", shadow=True)),),
                ),
                DescriptorRule(b"each", rule=rule("each", detailed_metric=True)),
                DescriptorRule(b"budget", rule=rule("budget", budget=True, max_charge=7)),
                DescriptorRule(
                    b"windows",
                    rule=Rule(
                        StatKey("d", ("windows",)),
                        (Limit(10, Window(Unit.HOUR)), Limit(20, DAY)),
                        budget=True,
                    ),
                ),
            ),
        )
    ]
)


def descriptor(
    entries: str, hits: int | None = None, negative: bool = False, override: Override | None = None
) -> Descriptor:
    """Return the descriptor with these `entries`, written as `key=value key=value`."""
    pairs = [pair.partition("=") for pair in entries.split()]
    found = tuple(Entry(key.encode(), value.encode()) for key, _, value in pairs)
    return Descriptor(found, hits, override, negative)


def planned(*descriptors: Descriptor, domain: str = "d", policy: Policy = POLICY) -> Plan:
    return Planner(TREE, policy, lambda: 0).plan(Request(domain, descriptors), 1_000_000)


def count(
    metrics: Metrics,
    *descriptors: Descriptor,
    before: int = 0,
    domain: str = "d",
    shadow_mode: bool = False,
    returned: tuple[bytes | None, ...] = (),
) -> None:
    """Count one request. Each of its counters was `before`."""
    policy = Policy(shadow_mode=shadow_mode)
    plan = planned(*descriptors, domain=domain, policy=policy)
    plan.request = plan.request._replace(returned=returned)
    metrics.decided(plan, decide(policy, plan, [before] * len(plan.hits)))


def shown(metrics: Metrics, *names: str) -> dict[str, float]:
    """Return the samples of a scrape by name, without their common prefix, and labels."""
    lines = [line for line in text_of(metrics).splitlines() if not line.startswith("#")]
    values = dict(line.removeprefix("ratelimit_service_").rsplit(" ", 1) for line in lines)
    return {series: float(value) for series, value in values.items() if series.startswith(names)}


HELD = RuleTree(
    [DomainRules("d", (DescriptorRule(b"held", rule=rule("held", budget=True, hold=HoldRule(6, most=1.0))),))]
)


def hold_everything(metrics: Metrics) -> None:
    """Cause all metrics of holds: a hold, one that expires, a refusal because of them, and a window that ends
    over its limit.
    """
    planner, store, day = Planner(HELD, POLICY, lambda: 0), MemoryStore(lambda: 0.0), 86_400
    for now, hits in ((0, 0), (0, 0), (0, 0), (1, 6), (70, 0), (71, 9), (day, 0), (day, 1)):
        plan = planner.plan(Request("d", (descriptor("held=x", hits),)), now)
        found: list[Sequence[Outcome]] = []
        store.hit([plan.hits], found.append)
        (counts,) = found[0]
        assert not isinstance(counts, StoreError)
        decision = decide(POLICY, plan, counts)
        decision.held = results(plan, counts)
        metrics.decided(plan, decision)
