"""The data that buckets of one rule share, and the data that they do not."""

from __future__ import annotations

from itertools import chain

from ratelimit_service.core import rule_windows
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Override, Request, Unit
from ratelimit_service.core.plan import Plan, Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from tests.limiter import MIDNIGHT, descriptor

RULES = """
domain: d
descriptors:
  - key: team
    rate_limits: [{unit: minute, tokens_per_unit: 10}, {unit: day, tokens_per_unit: 90}]
  - {key: user, value_to_metric: true, rate_limit: {unit: day, tokens_per_unit: 5}}
"""


def planner() -> Planner:
    return Planner(RuleTree(load([read("rules.yaml", RULES)]).domains), Policy(), lambda: 0)


def plan(by: Planner, *texts: str, now: int = MIDNIGHT, override: Override | None = None) -> Plan:
    descriptors = tuple([descriptor(text, 1, override) for text in texts])
    return by.plan(Request("d", descriptors, key=repr((texts, override)).encode()), now)


def test_buckets_of_a_rule_share_their_planned_descriptor_and_no_counter() -> None:
    """So an observer's cached row of one bucket serves all of them."""
    by = planner()
    one, other = plan(by, "team=a"), plan(by, "team=b")
    assert one.descriptors[0] is other.descriptors[0]
    assert ["{d|team=a}:minute:2026-11-21T00:00Z", "{d|team=a}:day:2026-11-21"] == [
        hit.key for hit in one.hits
    ]
    assert ["{d|team=b}:minute:2026-11-21T00:00Z", "{d|team=b}:day:2026-11-21"] == [
        hit.key for hit in other.hits
    ]


def test_a_place_in_the_request_has_hits_of_its_own() -> None:
    """The second descriptor's windows are the third and the fourth of the plan."""
    found = plan(planner(), "team=a", "team=b").descriptors
    assert [[0, 1], [2, 3]] == [[window.hit for window in each.windows] for each in found]


def test_a_bucket_with_a_name_of_its_own_in_the_statistics_shares_only_windows() -> None:
    by = planner()
    one, other = plan(by, "user=a").descriptors[0], plan(by, "user=b").descriptors[0]
    assert ["d.user_a", "d.user_b"] == [str(one.stat), str(other.stat)]
    assert one.windows is other.windows


def test_a_new_window_is_shared_from_its_first_second() -> None:
    by = planner()
    before = plan(by, "team=a", now=MIDNIGHT + 59).descriptors[0]
    after = [plan(by, f"team={team}", now=MIDNIGHT + 60).descriptors[0] for team in "ab"]
    assert after[0] is after[1] is not before
    assert [MIDNIGHT + 60, MIDNIGHT + 120] == [each.windows[0].end for each in (before, after[0])]
    assert ["00:00Z", "00:01Z"] == [
        plan(by, "team=c", now=now).hits[0].key[-6:] for now in (MIDNIGHT + 59, MIDNIGHT + 60)
    ]


def test_shared_windows_are_bounded_and_released_with_the_planner() -> None:
    """Strangers choose the places of descriptors, and the limits that requests bring."""
    by = planner()
    for amount in range(100):
        plan(by, "team=a", override=Override(amount, Unit.DAY))
    assert not list(by._windows.cached)
    windows = by._windows
    rule = plan(by, "team=a").descriptors[0].rule
    assert rule is not None
    for number in range(rule_windows._MOST_SHARED + 10):
        windows.of(rule, number, number, MIDNIGHT)
    kept = list(windows.cached)
    assert len(kept) <= rule_windows._MOST_SHARED
    assert {id(each) for each in kept} <= {id(each) for each in chain(by.cached)}
