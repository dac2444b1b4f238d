"""Checks that set tokens aside, and the ends of their holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratelimit_service.core.model import OK, Code, Decision, Descriptor, Request
from tests.limiter import (
    MIDNIGHT,
    Limiter,
    RecordedCall,
    descriptor,
)

RULES = """
domain: d
descriptors:
  - {key: team, rate_limit: {name: hourly, unit: hour, tokens_per_unit: 100}, hold: 60, hold_max: 100%}
  - {key: learned, rate_limit: {unit: hour, tokens_per_unit: 1000}, hold: auto, hold_max: 100%}
  - key: strict
    rate_limit: {unit: hour, tokens_per_unit: 1000}
    hold: auto
    hold_strictness: p90
    hold_max: 100%
  - {key: large, rate_limit: {unit: hour, tokens_per_unit: 1_000_000}, hold: auto}
  - {key: brief, rate_limit: {unit: hour, tokens_per_unit: 100}, hold: 60, hold_ttl: 12s, hold_max: 100%}
  - {key: capped, rate_limit: {unit: hour, tokens_per_unit: 100}, hold: 60, hold_max: 20%}
  - key: two
    rate_limits: [{unit: hour, tokens_per_unit: 100}, {unit: day, tokens_per_unit: 150}]
    hold: 60
    hold_max: 100%
  - {key: quick, rate_limit: {unit: minute, requests_per_unit: 100}, count_refused: false}
  - {key: shadow, shadow_mode: true, rate_limit: {unit: hour, tokens_per_unit: 100}, hold: 60}
  - {key: plain, rate_limit: {unit: hour, tokens_per_unit: 100}}
---
"""
HEADERS = {"refusal_headers": frozenset(["retry-after", "x-should-retry"]), "error_format": "openai"}


def limiter(**policy: Any) -> Limiter:
    return Limiter(RULES.partition("---")[0], **policy)


def check(limiter: Limiter, entries: str = "team=a") -> Decision:
    return limiter.ask(descriptor(entries, 0))


def charge(limiter: Limiter, hits: int, entries: str = "team=a", brings: str | None = None) -> Decision:
    """Charge as a gateway that returns `brings`: an id, or an empty text for the marker of an end."""
    returned = () if brings is None else (brings.encode(),)
    return limiter.answer(Request("d", (descriptor(entries, hits),), returned=returned))


def passed(limiter: Limiter, times: int, entries: str = "team=a") -> list[Decision]:
    """Return the decisions of those of this many checks that pass."""
    return [each for each in [check(limiter, entries) for _ in range(times)] if each.code is OK]


def test_a_check_is_refused_once_used_and_held_reach_the_limit() -> None:
    """Its own hold is not counted, so the check that crosses the limit passes, as a charge does."""
    one = limiter()
    assert 2 == len(passed(one, 10))
    assert (0, 120, 2) == check(one).in_flight
    assert None is one.used("team=a")


def test_a_lone_request_always_passes() -> None:
    """This holds even if its hold is larger than the budget."""
    one = limiter()
    one.ask(descriptor("team=a", 99))
    assert 1 == len(passed(one, 3))


def test_a_charge_with_the_id_ends_the_hold_of_its_check() -> None:
    """The charge may be in any counter, and the next request passes as soon as there is room."""
    one = limiter()
    first, second = passed(one, 5)
    charge(one, 10, brings=first.hold)
    assert 10 == one.used("team=a")
    assert 1 == len(passed(one, 5))
    charge(one, 10, brings=second.hold)
    assert 20 == one.used("team=a")


def test_hits_0_with_the_id_release_the_hold() -> None:
    """The end of an aborted request is not a check: it counts nothing and sets nothing aside."""
    one = limiter()
    for _ in range(50):
        first, second = passed(one, 5)
        for each in (first, second, first):
            assert "" == charge(one, 0, brings=each.hold).hold
    assert None is one.used("team=a")


def test_the_charge_of_an_id_counts_once() -> None:
    """A gateway that repeats it after 300 ms is not counted again; ids are remembered for two minutes."""
    one = limiter()
    (first, _) = passed(one, 2)
    for later, used in ((0, 40), (1, 40), (60, 40), (119, 80)):
        one.now = MIDNIGHT + later + (0 if later < 119 else 61)
        charge(one, 40, brings=first.hold)
        assert used == one.used("team=a")


def test_an_id_counts_once_in_a_bucket_without_holds() -> None:
    """Each bucket counts it separately: a request that charges two rules charges both."""
    one = limiter()
    (first, *_) = passed(one, 1)
    for _ in range(3):
        both = (descriptor("team=a", 40), descriptor("plain=a", 30))
        one.answer(Request("d", both, returned=(first.hold.encode(), first.hold.encode())))
    assert (40, 30) == (one.used("team=a"), one.used("plain=a"))


def test_the_parts_of_one_cost_are_all_counted() -> None:
    """Prompt and completion are two descriptors of one bucket. Each counts once, and not again when it is
    repeated.
    """
    one = limiter()
    (first, *_) = passed(one, 1, "learned=a")
    for _ in range(2):
        parts = (descriptor("learned=a", 10), descriptor("learned=a", 30))
        one.answer(Request("d", parts, returned=(first.hold.encode(),) * 2))
    assert 40 == one.used("learned=a")
    assert 40.0 == one.holds("learned=a").mean


@pytest.mark.parametrize("hits", [(10, 30), (0, 40), (40, 0)])
def test_each_id_of_one_bucket_ends_its_hold(hits: tuple[int, int]) -> None:
    """A gateway that charges two requests in one call. Their charges count once, together."""
    one = limiter()
    ids = tuple(each.hold.encode() for each in passed(one, 2))
    assert 120 == one.holds("team=a").held(MIDNIGHT)
    for _ in range(2):
        one.answer(Request("d", tuple(descriptor("team=a", hit) for hit in hits), returned=ids))
    assert 0 == one.holds("team=a").held(MIDNIGHT)
    assert 40 == one.used("team=a")


@pytest.mark.parametrize("first", [True, False])
def test_a_part_of_a_cost_without_the_id_belongs_to_the_part_with_it(first: bool) -> None:
    """Whichever comes first: both count once, and end one hold."""
    one = limiter()
    (check, _) = passed(one, 2)
    returned = (check.hold.encode(), None)
    for _ in range(2):
        parts = (descriptor("team=a", 10), descriptor("team=a", 30))
        one.answer(Request("d", parts, returned=returned if first else returned[::-1]))
    assert 60 == one.holds("team=a").held(MIDNIGHT)
    assert 40 == one.used("team=a")


@pytest.mark.parametrize(
    "brings", ["-", "made up", "AWsA3wAAAAAAAAAAAAAAAAAAAWQAAAAAAAAAAGsA3zwBAAR0ZWFtAAFh0_Ij", "\x00" * 3000]
)
def test_a_charge_with_an_invalid_id_is_a_plain_charge(brings: str) -> None:
    """It counts each time, and ends no hold."""
    one = limiter()
    assert 2 == len(passed(one, 5))
    charge(one, 10, brings=brings)
    charge(one, 10, brings=brings)
    assert 20 == one.used("team=a")
    assert 0 == len(passed(one, 5))


def test_a_changed_id_is_invalid() -> None:
    """Any of its bytes may be changed."""
    one = limiter()
    (first, *_) = passed(one, 1, "learned=a")
    for place in range(len(first.hold)):
        changed = first.hold[:place] + ("A" if first.hold[place] != "A" else "B") + first.hold[place + 1 :]
        charge(one, 1, "plain=b", brings=changed)
        charge(one, 1, "plain=b", brings=changed)
    assert 2 * len(first.hold) == one.used("plain=b")


def test_the_id_of_another_bucket_ends_its_hold_there() -> None:
    """A route that rewrites the header charges another team, and the hold of the check still ends."""
    one = limiter()
    first, _ = passed(one, 5)
    charge(one, 10, "team=b", brings=first.hold)
    assert (None, 10) == (one.used("team=a"), one.used("team=b"))
    assert 1 == len(passed(one, 5))


def test_a_descriptor_of_nothing_but_the_id_is_charged_to_the_bucket_of_its_check() -> None:
    """Beside the descriptor of the check it adds nothing. Alone, it charges the same bucket."""
    one = limiter()
    first, second = passed(one, 5)
    alone = Descriptor((), 10)
    brings = (first.hold.encode(),)
    one.answer(Request("d", (alone,), returned=brings))
    assert 10 == one.used("team=a")
    brings = (second.hold.encode(),)
    one.answer(Request("d", (descriptor("team=a", 30), alone._replace(hits_addend=30)), returned=brings * 2))
    assert 40 == one.used("team=a")
    assert 1 == len(passed(one, 5))
    assert Code.OK is one.answer(Request("d", (alone,), returned=(b"unknown",))).code


def test_a_charge_without_an_id_ends_the_oldest_hold() -> None:
    """Some gateways return no id."""
    one = limiter()
    assert 2 == len(passed(one, 5))
    charge(one, 10)
    assert 1 == len(passed(one, 5))


def test_the_marker_of_an_end_releases_a_hold() -> None:
    """This includes an aborted request, which has no charge. The end of a refused request releases
    nothing.
    """
    one = limiter()
    assert 2 == len(passed(one, 2))
    charge(one, 0, brings="")  # the first: from now on refusals are expected to end as well
    assert 1 == len(passed(one, 2))
    charge(one, 0, brings="")  # the end of the refused one
    assert 0 == len(passed(one, 1))
    charge(one, 0, brings="")
    charge(one, 0, brings="")
    assert 1 == len(passed(one, 1))


def test_a_hold_expires_by_itself() -> None:
    """It expires after its ttl at the latest."""
    one = limiter()
    assert 2 == len(passed(one, 5, "brief=a"))
    one.now += 10
    assert 0 == len(passed(one, 5, "brief=a"))
    one.now += 2
    assert 2 == len(passed(one, 5, "brief=a"))


def test_holds_end_with_the_window() -> None:
    """The next hour begins with its whole budget."""
    one = Limiter(RULES.partition("---")[0], now=MIDNIGHT + 3_595)
    assert 2 == len(passed(one, 5))
    one.now += 5
    assert 2 == len(passed(one, 5))


def test_every_window_of_a_bucket_has_to_have_room() -> None:
    """Of 150 tokens of the day, 80 are used, so one hold of 60 leaves room, and two do not."""
    one = limiter()
    one.ask(descriptor("two=a", 80))
    one.now += 3_600
    assert 2 == len(passed(one, 5, "two=a"))
    one.ask(descriptor("two=a", 5))


def test_a_hold_is_at_most_a_share_of_the_limit() -> None:
    """Without hold_max, the hold of one request could refuse all others."""
    one = limiter()
    assert 5 == len(passed(one, 9, "capped=a"))


def test_the_size_is_learned_from_the_charges_of_the_bucket() -> None:
    """There are no holds before the first charge of a rule. A new bucket begins with the mean of its rule."""
    one = limiter()
    assert 3 == len(passed(one, 3, "learned=a"))
    charge(one, 400, "learned=a")
    assert 2 == len(passed(one, 5, "learned=a"))
    assert 3 == len(passed(one, 5, "learned=b"))


def test_a_strict_rule_holds_more_where_costs_differ() -> None:
    """p90 is the mean and 1.28 standard deviations."""
    one = limiter()
    for cost in (50, 150) * 2:
        check(one, "strict=a")
        charge(one, cost, "strict=a")
    assert 4 == len(passed(one, 9, "strict=a"))  # 400 used, and four times 161
    holds = one.holds("strict=a")
    assert (100.0, 12_500.0) == (round(holds.mean, 9), round(holds.square, 6))


def test_a_bucket_far_from_its_limit_is_left_alone() -> None:
    """There is no hit on holds, but there is an id, whose charge counts once. Near the limit, there are holds
    again.
    """
    one = limiter()
    charge(one, 100, "large=a")
    kept = len(one.store.holds)
    first = check(one, "large=a")
    assert first.hold
    assert kept == len(one.store.holds)
    one.ask(descriptor("large=a", 850_000))
    check(one, "large=a")
    assert 900_000 > (one.used("large=a") or 0)
    charge(one, 60_000, "large=a")
    check(one, "large=a")
    one.now += 1
    check(one, "large=a")
    assert one.holds("large=a").held(int(one.now)) > 0


def test_a_rule_that_refuses_nothing_holds_nothing() -> None:
    """The rule is in shadow mode."""
    one = limiter()
    assert 9 == len(passed(one, 9, "shadow=a"))
    assert 0 == len(one.store.holds)


def test_a_refusal_because_of_holds_asks_for_a_retry_soon() -> None:
    """SDKs retry twice, so the delay is half of the usual time in flight: the hold has ended at the second
    retry.
    """
    one = limiter(**HEADERS)
    passed(one, 5)
    refused = check(one)
    error = json.loads(refused.body)["error"]
    assert [("retry-after", "2")] == [(*header,) for header in refused.headers]
    assert ("tokens", "rate_limit_exceeded") == (error["type"], error["code"])
    assert (
        "120 tokens of token budget hourly are held by running requests. Try again in 2 seconds."
        == error["message"]
    )
    assert ("in_flight", 120, 2) == (
        error["rate_limit"]["reason"],
        error["rate_limit"]["held"],
        refused.statuses[0].reset,
    )
    assert "" == refused.hold


@pytest.mark.parametrize(("flight", "delay"), [(1, 1), (4, 2), (9, 5), (50, 10)])
def test_the_delay_is_half_the_time_in_flight(flight: int, delay: int) -> None:
    """It is bounded to 1 to 10 seconds."""
    one = limiter()
    first, _ = passed(one, 2)
    one.now += flight
    charge(one, 60, brings=first.hold)
    passed(one, 5)
    assert delay == check(one).statuses[0].reset


def test_a_budget_that_is_used_up_is_refused_as_such() -> None:
    """Its holds do not matter, because waiting for them would not help."""
    one = limiter(**HEADERS)
    passed(one, 1)
    one.ask(descriptor("team=a", 100))
    refused = check(one)
    assert None is refused.in_flight
    assert "insufficient_quota" == json.loads(refused.body)["error"]["code"]


def test_a_request_refused_elsewhere_holds_nothing() -> None:
    """A request refused because of holds is not counted if refused requests are not."""
    one = limiter()
    one.ask(descriptor("plain=a", 100))
    assert Code.OVER_LIMIT is one.ask(descriptor("team=a", 0), descriptor("plain=a", 0)).code
    assert 2 == len(passed(one, 5))
    assert Code.OVER_LIMIT is one.ask(descriptor("team=a", 0), descriptor("quick=a", 1)).code
    assert None is one.used("quick=a")


def test_a_caller_that_has_gone_holds_nothing() -> None:
    """Its id would never be returned."""
    one = limiter()
    for _ in range(5):
        one.service.submit([RecordedCall(Request("d", (descriptor("team=a", 0),)), gone=True)])
    assert 2 == len(passed(one, 5))


def test_an_explanation_holds_nothing() -> None:
    """The command `ask` runs no request."""
    one = limiter()
    for _ in range(5):
        one.answer(Request("d", (descriptor("team=a", 0),), explain=True))
    assert 0 == len(one.store.holds)


def test_shadow_mode_issues_an_id_of_nothing_for_a_check_that_it_lets_pass() -> None:
    """Its charge ends no hold of other requests."""
    one = limiter(shadow_mode=True)
    checks = [check(one) for _ in range(3)]
    assert [False, False, True] == [each.shadowed for each in checks]
    assert (0, 120, 2) == checks[-1].in_flight
    charge(one, 10, brings=checks[-1].hold)
    assert 10 == one.used("team=a")
    assert (0, 120, 2) == check(one).in_flight
