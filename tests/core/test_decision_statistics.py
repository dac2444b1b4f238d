"""What a decision adds to the statistics: upstream's published examples, and more."""

from __future__ import annotations

import pytest

from ratelimit_service.core.decision import decide
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorRule,
    DomainRules,
    Entry,
    Limit,
    Request,
    Rule,
    StatKey,
    Unit,
    Window,
)
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.observe.metrics import Metrics

POLICY = Policy(near_limit_ratio=0.8)


def counted(limit: int, hits: int, after: int, shadow: bool = False) -> dict[str, float]:
    """Return the statistics of one call that left `after` in the counter, by the ends of their names."""
    rule = Rule(StatKey("d", ("k",)), (Limit(limit, Window(Unit.HOUR)),), shadow=shadow)
    tree = RuleTree([DomainRules("d", (DescriptorRule(b"k", rule=rule),))])
    request = Request("d", (Descriptor((Entry(b"k", b"v"),), hits),))
    plan = Planner(tree, POLICY, lambda: 0).plan(request, 1_000_000)
    metrics = Metrics()
    metrics.decided(plan, decide(POLICY, plan, [after - hits]))
    prefix = "ratelimit_service_rate_limit_"
    return {
        sample.name.removeprefix(prefix): sample.value
        for sample in metrics.counters()
        if sample.name.startswith(prefix)
    }


@pytest.mark.parametrize(
    "limit, hits, after, expected",
    [
        # upstream's examples: the call crosses the limit
        (20, 3, 22, {"total_hits": 3, "over_limit": 2, "near_limit": 1}),
        (20, 7, 22, {"total_hits": 7, "over_limit": 2, "near_limit": 4}),
        # some or all of its hits are near the limit
        (8, 2, 7, {"total_hits": 2, "within_limit": 2, "near_limit": 1}),
        (20, 3, 19, {"total_hits": 3, "within_limit": 3, "near_limit": 3}),
        # the limit was used up before
        (10, 3, 30, {"total_hits": 3, "over_limit": 3}),
        # more: exactly near, one above, exactly the limit, one above
        (10, 1, 8, {"total_hits": 1, "within_limit": 1}),
        (10, 1, 9, {"total_hits": 1, "within_limit": 1, "near_limit": 1}),
        (10, 1, 10, {"total_hits": 1, "within_limit": 1, "near_limit": 1}),
        (10, 1, 11, {"total_hits": 1, "over_limit": 1}),
        # from 0 to above the limit
        (10, 30, 30, {"total_hits": 30, "over_limit": 20, "near_limit": 2}),
        # a limit of 0
        (0, 1, 1, {"total_hits": 1, "over_limit": 1}),
        # checks are not counted
        (10, 0, 5, {}),
        (10, 0, 15, {}),
    ],
)
def test_hits_are_split_at_the_lines_that_they_cross(
    limit: int, hits: int, after: int, expected: dict[str, float]
) -> None:
    """Hits that still fitted are near the limit, and the others are over it."""
    assert expected == counted(limit, hits, after)


@pytest.mark.parametrize(
    "after, expected",
    [
        (22, {"total_hits": 3, "over_limit": 2, "near_limit": 1, "shadow_mode": 2}),
        (30, {"total_hits": 3, "over_limit": 3, "shadow_mode": 3}),
        (20, {"total_hits": 3, "within_limit": 3, "near_limit": 3}),
    ],
)
def test_hits_over_a_limit_in_shadow_mode_are_counted_there_as_well(
    after: int, expected: dict[str, float]
) -> None:
    """shadow_mode is the part of over_limit that passed."""
    assert expected == counted(20, 3, after, shadow=True)
