"""Token budgets: checks, charges, refunds, several windows, and requests that are not counted."""

from __future__ import annotations

import json

import pytest

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Code, Descriptor, Entry, Override, Request, Unit
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from tests.limiter import MIDNIGHT, Limiter

TEAM = """
domain: llm
descriptors:
  - key: team
    rate_limit: {unit: hour, tokens_per_unit: 100}
"""

DBA = """
domain: llm
descriptors:
  - key: team
    rate_limits:
      - {name: hourly, unit: hour, tokens_per_unit: 100}
      - {name: daily, unit: day, tokens_per_unit: 250}
"""


def team(hits: int | None = None, *, name: str = "dba", negative: bool = False) -> Descriptor:
    return Descriptor((Entry(b"team", name.encode()),), hits, negative=negative)


def ask(limiter: Limiter, *descriptors: Descriptor, hits: int = 0) -> tuple[str, list[tuple[str, int]]]:
    """Return the overall verdict, and code and remaining of each status."""
    decision = limiter.answer(Request("llm", descriptors, hits))
    return decision.code.name, [(status.code.name, status.remaining) for status in decision.statuses]


def test_a_budget_is_checked_charged_and_refused() -> None:
    """The calls of a gateway: the charge that crosses the limit succeeds, and the next check is refused."""
    limiter = Limiter(TEAM)
    rows = [
        # a check counts nothing
        (0, "OK", 100),
        (0, "OK", 100),
        # a charge is answered by what was there before it
        (40, "OK", 60),
        (59, "OK", 1),
        (0, "OK", 1),
        # the request that crosses the line succeeds, and is counted in full
        (80, "OK", 0),
        # from then on everything is refused, and charges are counted all the same
        (0, "OVER_LIMIT", 0),
        (20, "OVER_LIMIT", 0),
        # 199 were used: giving back 99 leaves exactly the limit, which is used up; one more, and one is left
        (-99, "OK", 0),
        (0, "OVER_LIMIT", 0),
        (-1, "OK", 1),
        (0, "OK", 1),
    ]
    for hits, code, remaining in rows:
        assert (code, [(code, remaining)]) == ask(limiter, team(abs(hits), negative=hits < 0)), hits


def test_a_call_without_a_hits_addend_is_a_check() -> None:
    """Upstream would count 1, and silently turn the budget into a request limit."""
    limiter = Limiter(TEAM)
    assert [("OK", 100)] * 3 == [ask(limiter, team())[1][0] for _ in range(3)]
    ask(limiter, team(100))
    assert "OVER_LIMIT" == ask(limiter, team())[0]


def test_the_hits_addend_may_be_that_of_the_request() -> None:
    """It applies to descriptors without their own. There, 0 means unset."""
    limiter = Limiter(TEAM)
    assert [("OK", 70)] == ask(limiter, team(), hits=30)[1]
    assert [("OK", 70)] == ask(limiter, team(), hits=0)[1]


def test_an_empty_budget_lets_nothing_through() -> None:
    """A limit of 0 refuses the first check."""
    limiter = Limiter(TEAM.replace("100", "0"))
    assert ("OVER_LIMIT", [("OVER_LIMIT", 0)]) == ask(limiter, team(0))


def test_a_budget_may_be_larger_than_the_protocol_can_express() -> None:
    """30,000,000,000 is counted exactly. Only on the wire, the remaining amount saturates."""
    limiter = Limiter(TEAM.replace("100", "30_000_000_000") + "    max_charge: 20_000_000_000\n")
    assert [("OK", 20_000_000_000)] == ask(limiter, team(10_000_000_000))[1]
    assert [("OK", 0)] == ask(limiter, team(20_000_000_000))[1]
    assert "OVER_LIMIT" == ask(limiter, team(0))[0]


def test_all_windows_are_charged_and_the_fullest_is_shown() -> None:
    """An hour of 100 and a day of 250 on one bucket, hour after hour."""
    limiter = Limiter(DBA)
    rows = [
        # seconds since midnight, hits, code, remaining, name, reset
        (0, 0, "OK", 100, "hourly", 3_600),
        (10, 120, "OK", 0, "hourly", 3_590),
        (20, 0, "OVER_LIMIT", 0, "hourly", 3_580),
        # the hour is new, and the day has 130 left
        (3_600, 0, "OK", 100, "hourly", 3_600),
        (3_600, 40, "OK", 60, "hourly", 3_600),
        (3_600, 50, "OK", 10, "hourly", 3_600),
        # a new hour again, of whose 100 the day leaves 40
        (7_200, 0, "OK", 40, "daily", 79_200),
        (7_200, 60, "OK", 0, "daily", 79_200),
        # the hour has 40 left, the day nothing: the day refuses
        (7_300, 0, "OVER_LIMIT", 0, "daily", 79_100),
        # both refuse: the one that resets last is shown
        (7_300, 50, "OVER_LIMIT", 0, "daily", 79_100),
        (7_300, 0, "OVER_LIMIT", 0, "daily", 79_100),
        # the next day
        (86_400, 0, "OK", 100, "hourly", 3_600),
    ]
    for later, hits, code, remaining, name, reset in rows:
        limiter.now = MIDNIGHT + later
        (status,) = limiter.answer(Request("llm", (team(hits),))).statuses
        assert status.limit is not None
        assert (code, remaining, name, reset) == (
            status.code.name,
            status.remaining,
            status.limit.name,
            status.reset,
        ), later


def test_of_windows_that_reset_together_the_longer_is_shown() -> None:
    """In the last hour of the day, both the hour and the day are used up until midnight."""
    limiter = Limiter(DBA, now=MIDNIGHT + 86_399)
    ask(limiter, team(250))
    (status,) = limiter.answer(Request("llm", (team(0),))).statuses
    assert status.limit is not None
    assert ("daily", 1) == (status.limit.name, status.reset)


REQUESTS = """
domain: llm
descriptors:
  - key: team
    rate_limits:
      - {unit: minute, requests_per_unit: 2}
      - {unit: day, requests_per_unit: 5}
"""


def test_a_refusal_by_the_minute_does_not_use_up_the_day() -> None:
    """In a list of requests_per_unit, a refused request is not counted."""
    limiter = Limiter(REQUESTS)
    assert ["OK", "OK", *["OVER_LIMIT"] * 10] == [ask(limiter, team())[0] for _ in range(12)]
    limiter.now += 60
    assert ["OK", "OK", "OVER_LIMIT"] == [ask(limiter, team())[0] for _ in range(3)]
    limiter.now += 60
    assert ["OK", "OVER_LIMIT"] == [ask(limiter, team())[0] for _ in range(2)]


MIXED = """
domain: llm
descriptors:
  - key: gate
    rate_limit: {unit: hour, requests_per_unit: 1}
  - key: kept
    count_refused: false
    rate_limit: {unit: hour, requests_per_unit: 10}
  - key: estimate
    count_refused: false
    rate_limit: {unit: hour, tokens_per_unit: 100}
  - key: tokens
    rate_limit: {unit: hour, tokens_per_unit: 100}
  - key: tried
    shadow_mode: true
    rate_limit: {unit: hour, requests_per_unit: 0}
"""


def of(*keys: str, hits: int = 1) -> tuple[Descriptor, ...]:
    return tuple(Descriptor((Entry(key.encode(), b""),), hits) for key in keys)


def left(limiter: Limiter, key: str) -> int:
    return limiter.answer(Request("llm", of(key, hits=0))).statuses[0].remaining


def test_a_refusal_by_another_rule_is_not_counted_with_count_refused_false() -> None:
    """`kept` and the estimate are counted once; the budget is always charged."""
    limiter = Limiter(MIXED)
    keys = ("kept", "gate", "estimate", "tokens")
    assert Code.OK is limiter.answer(Request("llm", of(*keys))).code
    for _ in range(3):
        assert Code.OVER_LIMIT is limiter.answer(Request("llm", of(*keys))).code
    assert [9, 99, 96] == [left(limiter, key) for key in ("kept", "estimate", "tokens")]


def test_a_rule_in_shadow_mode_holds_nothing_back() -> None:
    """It refuses no request, so other rules count as usual."""
    limiter = Limiter(MIXED)
    assert Code.OK is limiter.answer(Request("llm", of("tried", "kept"))).code
    assert 9 == left(limiter, "kept")


def test_a_charge_on_a_budget_is_always_counted() -> None:
    """STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT is for requests. Tokens are spent already."""
    limiter = Limiter(MIXED, stop_when_over=True)
    for _ in range(3):
        limiter.answer(Request("llm", of("gate", "tokens")))
    assert 97 == left(limiter, "tokens")


STRICT = """
domain: llm
unmatched: deny
required_keys: [team]
descriptors:
  - key: team
    value: dba
    rate_limit: {unit: hour, tokens_per_unit: 100}
  - key: user
    rate_limit: {unit: hour, tokens_per_unit: 100}
"""


def test_an_unmatched_descriptor_can_be_refused() -> None:
    """Its status has no limit, other statuses are as usual, and there is no reset."""
    limiter = Limiter(
        STRICT, refusal_headers=frozenset(("retry-after", "content-type")), error_format="openai"
    )
    decision = limiter.answer(Request("llm", (team(0), team(0, name="x"))))
    assert Code.OVER_LIMIT is decision.code
    assert [("OK", True), ("OVER_LIMIT", False)] == [
        (status.code.name, status.limit is not None) for status in decision.statuses
    ]
    assert ["content-type"] == [header.name for header in decision.headers]
    assert "no rule matches team=x" in json.loads(decision.body)["error"]["message"]


def test_a_request_that_lacks_a_key_is_refused() -> None:
    """A gateway drops a descriptor whose expression fails. Without required_keys, this bypasses the quota."""
    limiter = Limiter(STRICT, error_format="openai")
    decision = limiter.answer(Request("llm", of("user")))
    assert Code.OVER_LIMIT is decision.code
    assert [("OVER_LIMIT", None)] == [(status.code.name, status.limit) for status in decision.statuses]
    assert "no descriptor has the key 'team'" in json.loads(decision.body)["error"]["message"]
    assert Code.OK is limiter.answer(Request("llm", (team(0), *of("user")))).code
    # the refused one was charged as well: what was used was used
    assert 97 == limiter.answer(Request("llm", (team(0), *of("user")))).statuses[1].remaining


def test_an_override_keeps_the_kind_of_the_limit() -> None:
    """It replaces the window with the same unit. The daily limit still applies."""
    limiter = Limiter(DBA)

    def charge(hits: int, amount: int, unit: Unit) -> tuple[str, int]:
        descriptor = team(hits)._replace(override=Override(amount, unit))
        (status,) = limiter.answer(Request("llm", (descriptor,))).statuses
        return status.code.name, status.remaining

    assert ("OK", 60) == charge(140, 200, Unit.HOUR)  # crosses 100, which is overridden
    assert ("OK", 0) == charge(
        110, 200, Unit.HOUR
    )  # a budget: crosses 200 and succeeds; uses the day up, too
    assert ("OVER_LIMIT", 0) == charge(0, 1_000, Unit.HOUR)  # the day refuses
    assert ("OK", 5) == charge(0, 5, Unit.MINUTE)  # another unit stands alone


@pytest.mark.parametrize(("budget_domains", "expected"), [((), "OVER_LIMIT"), (("llm",), "OK")])
def test_an_override_in_a_domain_of_budgets_is_a_budget(
    budget_domains: tuple[str, ...], expected: str
) -> None:
    """No rule is needed: 10 hits exceed a limit of 5 requests, and cross a budget of 5."""
    limiter = Limiter(TEAM)
    limiter.service.use(
        RuleTree(load([read("rules", TEAM)], budget_domains=frozenset(budget_domains)).domains)
    )
    descriptor = Descriptor((Entry(b"new", b"x"),), 10, Override(5, Unit.HOUR))
    assert expected == ask(limiter, descriptor)[0]


QUIET = """
domain: llm
descriptors:
  - {key: team, rate_limit: {name: hourly, unit: hour, tokens_per_unit: 100}, limit_headers: on_refusal}
  - {key: trial, rate_limit: {unit: hour, tokens_per_unit: 0}, limit_headers: on_refusal, shadow_mode: true}
"""


def test_a_rule_may_show_its_limit_in_a_refusal_alone() -> None:
    """An OK status has the remaining amount and the reset, but no limit, so that gateways add no headers."""
    limiter = Limiter(QUIET)
    rows = [(0, Code.OK, "", 100), (120, Code.OK, "", 0), (0, Code.OVER_LIMIT, "hourly", 0)]
    for hits, code, name, remaining in rows:
        (status,) = limiter.answer(Request("llm", (team(hits),))).statuses
        assert (code, name, remaining, 3600) == (
            status.code,
            status.limit.name if status.limit else "",
            status.remaining,
            status.reset,
        )
    (trial,) = limiter.answer(Request("llm", (Descriptor((Entry(b"trial", b"x"),), 0),))).statuses
    assert (Code.OK, None, 0, 3600) == trial


def test_an_override_is_shown_as_its_rule_is() -> None:
    """It is shown in refusals only."""
    limiter = Limiter(QUIET)
    for hits, shown in ((7, False), (0, True)):
        descriptor = team(hits)._replace(override=Override(5, Unit.HOUR))
        (status,) = limiter.answer(Request("llm", (descriptor,))).statuses
        assert shown is (status.limit is not None)
