"""The hits of a request: their counters, amounts and lifetimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ratelimit_service.core.errors import InvalidRequest, NotReady, RateLimitServiceError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import COUNTER_MAX, Descriptor, Hit, Override, Request, Unit
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from tests.limiter import (
    MIDNIGHT,
    Limiter,
    NoObserver,
    RecordedCall,
    RecordingStore,
    decision_text,
    descriptor,
)

RULES = """
domain: d
descriptors:
  - key: team
    rate_limit: {requests_per_unit: 10, unit: hour}
    descriptors:
      - {key: model, rate_limit: {requests_per_unit: 5, unit: minute, unit_multiplier: 5}}
  - {key: path, value: /api/*, share_threshold: true, rate_limit: {requests_per_unit: 3, unit: day}}
  - {key: user, rate_limit: {requests_per_unit: 7, unit: second, name: user}}
  - {key: free, rate_limit: {unlimited: true, replaces: [{name: user}]}}
"""


def hits(
    *requests: Request,
    clock: Callable[[], float] = lambda: MIDNIGHT,
    jitter: Callable[[], int] = lambda: 0,
    **settings: Any,
) -> list[list[Hit]]:
    """Return the groups that the store receives for `requests` in one batch, in one call."""
    store = RecordingStore()
    service = RateLimitService(store, NoObserver(), clock, Policy(**settings), jitter)
    service.use(RuleTree(load([read("rules.yaml", RULES)]).domains))
    service.submit([RecordedCall(request) for request in requests])
    (groups,) = store.asked
    return [list(group) for group in groups]


def request(*descriptors: Descriptor | str, addend: int = 0, domain: str = "d") -> Request:
    asked = [one if isinstance(one, Descriptor) else descriptor(one) for one in descriptors]
    return Request(domain, tuple(asked), addend)


def keys(groups: list[list[Hit]]) -> list[list[str]]:
    return [[hit.key for hit in group] for group in groups]


@pytest.mark.parametrize(
    "descriptors, expected",
    [
        ("team=dba", ["{d|team=dba}:hour:2026-11-21T00Z"]),
        ("user=a", ["{d|user=a}:second:2026-11-21T00:00:00Z"]),
        ("path=/api/v1", ["{d|path=/api/*}:day:2026-11-21"]),
        # one for each limited descriptor, in their order, none for the others
        (
            "user=b stranger=x team= path=/api/ team=dba",
            [
                "{d|user=b}:second:2026-11-21T00:00:00Z",
                "{d|team=}:hour:2026-11-21T00Z",
                "{d|path=/api/*}:day:2026-11-21",
                "{d|team=dba}:hour:2026-11-21T00Z",
            ],
        ),
        ("team=a team=a", ["{d|team=a}:hour:2026-11-21T00Z"] * 2),
        # an unlimited descriptor has no counter, and a replaced one has none either
        ("free=x", []),
        ("user=a free=x team=b", ["{d|team=b}:hour:2026-11-21T00Z"]),
    ],
)
def test_each_limited_descriptor_touches_one_counter(descriptors: str, expected: list[str]) -> None:
    """It is that of its entries, in the window of its limit."""
    assert [expected] == keys(hits(request(*descriptors.split())))


def test_a_nested_descriptor_touches_one_counter_with_all_of_its_entries() -> None:
    """It does not count for the rule above it."""
    groups = hits(request(descriptor("team=dba model=gpt-4.1")))
    assert [["{d|team=dba|model=gpt-4.1}:5minute:2026-11-21T00:00Z"]] == keys(groups)


def test_every_key_has_the_prefix() -> None:
    """CACHE_KEY_PREFIX separates services that share a Redis."""
    groups = hits(request("team=a", "user=b"), key_prefix="stage:")
    assert [True, True] == [key.startswith("stage:{d|") for key in keys(groups)[0]]


@pytest.mark.parametrize(
    "own, addend, negative, expected",
    [
        (None, 0, False, 1),
        (None, 4, False, 4),
        (0, 4, False, 0),
        (9, 4, False, 9),
        (2**64 - 1, 0, False, COUNTER_MAX),
        (None, 0, True, -1),
        (None, 4, True, -4),
        (0, 4, True, 0),
        (9, 4, True, -9),
        (2**64 - 1, 0, True, -COUNTER_MAX),
    ],
)
def test_amounts_are_within_the_range_of_a_counter(
    own: int | None, addend: int, negative: bool, expected: int
) -> None:
    """0 for checks, below 0 for refunds, and no more than a counter can hold."""
    one = descriptor("team=dba", own)._replace(negative=negative)
    ((hit,),) = hits(request(one, addend=addend))
    assert expected == hit.amount


@pytest.mark.parametrize("past, expected", [(0, 3600), (1, 3599), (3598, 2), (3599, 1)])
def test_a_counter_lives_until_its_window_ends(past: int, expected: int) -> None:
    """A jitter is added, so that not all counters expire in one second."""
    ((hit,),) = hits(request("team=dba"), clock=lambda: MIDNIGHT + past + 0.9)
    assert expected == hit.ttl
    ((hit,),) = hits(request("team=dba"), clock=lambda: MIDNIGHT + past + 0.9, jitter=lambda: 250)
    assert expected + 250 == hit.ttl


def test_each_counter_has_a_jitter_of_its_own() -> None:
    """Counters that are created together do not expire together."""
    jitter = iter([1, 20, 300])
    (group,) = hits(request("team=a", "team=b", "team=c"), jitter=lambda: next(jitter))
    assert [3601, 3620, 3900] == [hit.ttl for hit in group]


def test_a_batch_is_one_call_of_the_store_with_one_now() -> None:
    """A clock that advances while requests are planned does not split a batch into two windows."""
    ticks = iter(range(MIDNIGHT + 3599, MIDNIGHT + 4000))
    groups = hits(request("team=a", "team=b"), request("team=c"), clock=lambda: next(ticks))
    assert 3 == sum(map(len, groups))
    assert {"2026-11-21T00Z"} == {key.rpartition("hour:")[2] for group in keys(groups) for key in group}


def test_a_clock_that_is_set_back_counts_in_the_window_that_it_shows() -> None:
    """When it advances again, it counts in the later window."""
    limiter = Limiter(RULES)
    answers = []
    for shift in (0, -3600, 3600, 0):
        limiter.now += shift
        answers.append(decision_text(limiter.ask("team=dba")))
    assert ["OK: OK 9 3600", "OK: OK 9 3600", "OK: OK 8 3600", "OK: OK 7 3600"] == answers


def test_any_number_of_windows_are_kept_apart() -> None:
    """However many windows callers bring, each has its own counter."""
    limiter = Limiter(RULES)
    asked = [descriptor("team=dba", 1, Override(2, Unit.DAY, days)) for days in range(1, 2_500)]
    assert ["OK: OK 1", "OK: OK 0", "OVER_LIMIT: OVER_LIMIT 0"] == [
        outcome
        for _ in range(3)
        for outcome in {decision_text(limiter.ask(one)).rpartition(" ")[0] for one in asked}
    ]
    assert 2_499 == len(limiter.store)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (request("team=a", domain=""), "domain"),
        (request(), "descriptor"),
        (request(domain=""), "domain"),
    ],
)
def test_a_request_without_a_domain_or_descriptors_is_refused(wrong: Request, message: str) -> None:
    """The error names what is missing, with or without rules."""
    with pytest.raises(InvalidRequest, match=message):
        Limiter(RULES).answer(wrong)
    assert [InvalidRequest] == [type(answer) for answer in answers_without_rules(wrong)]


def test_without_rules_nothing_can_be_decided() -> None:
    """The error is not the caller's: the request may succeed in a moment."""
    assert [NotReady] == [type(answer) for answer in answers_without_rules(request("team=a"))]


def answers_without_rules(asked: Request) -> Sequence[RateLimitServiceError | Any]:
    call = RecordedCall(asked)
    RateLimitService(RecordingStore(), NoObserver(), lambda: MIDNIGHT).submit([call])
    return call.answers
