"""Requests with one key share their prepared request, and each of them gets the right plan."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.cache import MIB
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, Entry, Request
from ratelimit_service.core.plan import Plan, PlannedWindow, Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from tests.limiter import (
    MIDNIGHT,
    Limiter,
    RecordedCall,
    decision_text,
)

RULES = """
domain: d
descriptors:
  - key: team
    rate_limits:
      - {unit: minute, tokens_per_unit: 10}
      - {unit: day, tokens_per_unit: 100}
  - {key: user, count_refused: false, rate_limit: {requests_per_unit: 3, unit: hour}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: held, rate_limit: {unit: day, tokens_per_unit: 100}, hold: auto}
  - key: billed
    rate_limits:
      - {unit: minute, tokens_per_unit: 10}
      - {unit: day, tokens_per_unit: 100}
    ledger: {}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)


def asked(key: bytes, *costs: int | None, addend: int = 0, names: str = "team user free") -> Request:
    """Return a request with one descriptor for each of `names`, with these hits_addends."""
    entries = [(Entry(name.encode(), b"a"),) for name in names.split()]
    return Request("d", tuple(map(Descriptor, entries, costs)), addend, key, repeats=True)


def fields(window: PlannedWindow) -> tuple[object, ...]:
    """Return the content of a window."""
    return window.limit, window.amount, window.end, window.hit, window.near


def without_request(plan: Plan) -> tuple[object, ...]:
    """Return the content of a plan without the request."""
    planned = [
        (each.rule, each.stat, list(map(fields, each.windows)), each.quota, each.denied)
        for each in plan.descriptors
    ]
    return planned, list(plan.addends), list(plan.hits), plan.now, plan.denial, list(plan.without_addend)


costs = st.sampled_from([None, 0, 1, 7, 2**64 - 1])


@given(
    st.lists(
        st.tuples(
            costs, costs, costs, st.sampled_from([0, 3]), st.integers(MIDNIGHT - 90_000, MIDNIGHT + 90_000)
        ),
        max_size=8,
    )
)
def test_a_prepared_request_gives_the_plans_that_a_new_one_would(
    calls: list[tuple[int | None, int | None, int | None, int, int]],
) -> None:
    """Its hits_addends may be any, and the clock may go in either direction."""
    shared = Planner(TREE, Policy(), lambda: 0)
    for one, two, three, addend, now in calls:
        request = asked(b"k", one, two, three, addend=addend)
        alone = Planner(TREE, Policy(), lambda: 0).plan(request._replace(key=b""), now)
        assert (
            without_request(alone)
            == without_request(shared.plan(request, now))
            == without_request(shared.plan(request, now))
        )


def test_the_same_request_is_planned_once_in_a_second() -> None:
    """In the next second, its counters have less time to live."""
    planner, request = Planner(TREE, Policy(), lambda: 0), asked(b"k", 1, names="team")
    plan = planner.plan(request, MIDNIGHT)
    assert plan is planner.plan(request, MIDNIGHT)
    later = planner.plan(request, MIDNIGHT + 1)
    assert [hit.ttl - 1 for hit in plan.hits] == [hit.ttl for hit in later.hits]


def test_the_plan_of_a_request_that_does_not_repeat_is_not_kept() -> None:
    """The next charge has another number, and is another request."""
    planner, request = Planner(TREE, Policy(), lambda: 0), asked(b"k", 1)._replace(repeats=False)
    plan = planner.plan(request, MIDNIGHT)
    again = planner.plan(request, MIDNIGHT)
    assert plan is not again
    assert without_request(plan) == without_request(again)
    assert not planner._plans


def test_the_plans_of_a_second_stay_within_their_bytes() -> None:
    """A flood of requests only evicts plans. Each request is planned as if it were the first."""
    planner = Planner(TREE, Policy(), lambda: 0)
    requests = [asked(b"k", cost, names="team") for cost in range(1, 5_000)]
    for request in requests:
        assert request.descriptors[0].hits_addend == planner.plan(request, MIDNIGHT).addends[0]
    assert len(planner._plans) * planner._prepared.get(b"k").weight <= 2 * MIB  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "entries, names",
    [
        (1, "team"),
        (1, "team user free"),
        (1, "team " * 100),
        (1, "nobody " * 100),
        (60, "nobody"),
        (1, "held"),
        (1, "held team user"),
        (1, "billed"),
        (1, "billed user billed"),
    ],
)
def test_a_prepared_request_takes_no_more_memory_than_its_weight(entries: int, names: str) -> None:
    """Otherwise the bound would not be one in bytes."""
    requests = [
        Request(
            "d",
            tuple(
                [Descriptor((Entry(name.encode(), b"%08d" % number),) * entries, 1) for name in names.split()]
            ),
            key=b"%d" % number,
            repeats=True,
        )
        for number in range(200)
    ]
    planner = Planner(TREE, Policy(), lambda: 0)
    planner.plan(asked(b"warm", 1, names="team"), MIDNIGHT)
    tracemalloc.start()
    try:
        for request in requests:
            planner.plan(request, MIDNIGHT)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    remembered = [planner._prepared.get(request.key) for request in requests]
    weight = sum([prepared.weight for prepared in remembered if prepared is not None])
    assert taken <= 2 * weight + 16_384  # prepared requests, and plans
    assert weight <= 6 * taken


def test_requests_with_one_key_share_their_planned_descriptors() -> None:
    """So an observer looks up their rows once."""
    planner = Planner(TREE, Policy(), lambda: 0)
    one, two = planner.plan(asked(b"k", 1, 2, 3), MIDNIGHT), planner.plan(asked(b"k", 4, 5, 6), MIDNIGHT + 1)
    assert one.descriptors is two.descriptors


def test_buckets_of_a_rule_with_a_ledger_share_its_windows() -> None:
    """So a new bucket takes little time and memory. Each has entries of its own, on its longest window."""
    planner = Planner(TREE, Policy(), lambda: 0)

    def plan(team: bytes, at: int) -> Plan:
        return planner.plan(Request("d", (Descriptor((Entry(b"billed", team),), 1),), key=team), at)

    one, two, later = plan(b"a", MIDNIGHT), plan(b"b", MIDNIGHT), plan(b"a", MIDNIGHT + 3_600)
    assert one.descriptors is two.descriptors
    assert [
        [None, ("{d|billed=a}", "T00Z")],
        [None, ("{d|billed=b}", "T00Z")],
        [None, ("{d|billed=a}", "T01Z")],
    ] == [
        [hit.into and (hit.into.book.partition(":")[0], hit.into.entry) for hit in each.hits]
        for each in (one, two, later)
    ]


def test_requests_without_a_key_share_nothing() -> None:
    """They may differ in anything."""
    planner = Planner(TREE, Policy(), lambda: 0)
    one = planner.plan(asked(b"", 1, names="team"), MIDNIGHT)
    two = planner.plan(asked(b"", 1, names="user"), MIDNIGHT)
    assert [TREE.rules[0], TREE.rules[1]] == [one.descriptors[0].rule, two.descriptors[0].rule]


def test_a_reload_drops_prepared_requests() -> None:
    """A request that was planned before the reload meets the new rules after it."""
    limiter = Limiter(RULES)
    answers = []
    for limit in (10, 20):
        rules = RULES.replace("tokens_per_unit: 10}", f"tokens_per_unit: {limit}}}")
        limiter.service.use(RuleTree(load([read("rules.yaml", rules)]).domains))
        call = RecordedCall(asked(b"k", 1, names="team"))
        limiter.service.submit([call])
        answers.append(decision_text(call.answers[0]))  # type: ignore[arg-type]
    assert ["OK: OK 9 60", "OK: OK 18 60"] == answers
