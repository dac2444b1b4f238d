"""Charges above max_charge: bounded, or refused."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ratelimit_service.core.model import Code, Limit, Override, Unit
from tests.limiter import Limiter, decision_text, descriptor
from tests.observe.replica import HOUR, Replica, budget

RULES = """
domain: d
descriptors:
  - {key: plain, rate_limit: {unit: hour, tokens_per_unit: 9_000_000_000}}
  - {key: small, rate_limit: {unit: hour, tokens_per_unit: 100}, max_charge: 10}
  - {key: strict, rate_limit: {unit: hour, tokens_per_unit: 100}, max_charge: 10, over_max_charge: refuse}
  - {key: requests, rate_limit: {unit: hour, requests_per_unit: 4_000_000_000}}
"""
NAN = 2**63
"""What Envoy sends for the text "NaN"."""


@pytest.mark.parametrize(
    ("entries", "hits", "answer", "used"),
    [
        # without the key, a budget counts 10^9 at most, and a limit of requests everything
        ("plain=a", 10**9, "OK: OK 8000000000 3600", 10**9),
        ("plain=a", NAN, "OK: OK 8000000000 3600", 10**9),
        ("requests=a", 3 * 10**9, "OK: OK 1000000000 3600", 3 * 10**9),
        ("small=a", 10, "OK: OK 90 3600", 10),
        ("small=a", 11, "OK: OK 90 3600", 10),
        ("strict=a", 10, "OK: OK 90 3600", 10),
        ("strict=a", 11, "OVER_LIMIT: OVER_LIMIT", None),
        ("strict=a", NAN, "OVER_LIMIT: OVER_LIMIT", None),
    ],
)
def test_a_charge_above_max_charge_is_bounded_or_refused(
    entries: str, hits: int, answer: str, used: int | None
) -> None:
    """A refused charge counts nothing, and a bounded one counts max_charge."""
    limiter = Limiter(RULES)
    assert answer == decision_text(limiter.ask(descriptor(entries, hits)))
    assert used == limiter.used(entries)


def test_a_refund_is_bounded_as_well() -> None:
    """Otherwise one absurd number would free an exhausted bucket."""
    limiter = Limiter(RULES)
    for _ in range(12):
        limiter.ask(descriptor("small=a", 10))
    limiter.ask(descriptor("small=a", -(2**40)))
    assert 110 == limiter.used("small=a")


def test_the_rest_of_the_request_is_counted() -> None:
    """A charge that one rule refuses still counts for the others, and the answer has no retry-after."""
    limiter = Limiter(RULES, refusal_headers=frozenset(["retry-after", "x-should-retry"]))
    decision = limiter.ask(descriptor("small=a", 4), descriptor("strict=a", 11))
    assert (Code.OVER_LIMIT, [("x-should-retry", "false")]) == (
        decision.code,
        [(*header,) for header in decision.headers],
    )
    assert (4, None) == (limiter.used("small=a"), limiter.used("strict=a"))


def test_a_limit_in_the_request_keeps_max_charge() -> None:
    """A caller cannot lift it by an override."""
    limiter = Limiter(RULES)
    limiter.ask(descriptor("small=a", 50, Override(1_000, Unit.HOUR)))
    assert 10 == limiter.used("small=a")


async def test_the_log_names_the_bucket_once_a_minute() -> None:
    """The line has the received and the counted hits. A faulty provider sends such a number with every
    answer.
    """
    replica = Replica(budget("team", Limit(100, HOUR), max_charge=7))
    with capture_logs() as events:
        for later in (0, 1, 60):
            replica.now += later
            await replica.ask("team=dba", NAN)
    expected = {
        "event": "a charge is above max_charge",
        "log_level": "warning",
        "bucket": "{d|team=dba}:hour:2026-11-21T00Z",
        "rule": "d.team",
        "charge": NAN,
        "max_charge": 7,
        "counted": 7,
    }
    assert [expected] * 2 == [event for event in events if event["event"] == expected["event"]]
