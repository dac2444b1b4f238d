"""The answers to requests with a limit override (`descriptor.limit`)."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.model import UINT32_MAX, Descriptor, Override, Unit
from tests.limiter import MIDNIGHT, Limiter, decision_text, descriptor

RULES = """
domain: d
descriptors:
  - key: team
    rate_limit: {requests_per_unit: 10, unit: hour, name: hourly}
    shadow_mode: true
    metadata: {tier: gold}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: path, value: /a*, share_threshold: true, rate_limit: {requests_per_unit: 10, unit: hour}}
  - {key: user, quota_mode: true, rate_limit: {requests_per_unit: 0, unit: hour}}
"""


def brought(
    entries: str, amount: int, unit: int = Unit.HOUR, multiplier: int = 1, hits: int = 1
) -> Descriptor:
    return descriptor(entries, hits, Override(amount, unit, multiplier))


@pytest.mark.parametrize(
    "override, expected",
    [
        # the override applies, smaller or larger than the configured limit
        (Override(1, Unit.HOUR), "OK: OK 0 3600"),
        (Override(100, Unit.HOUR), "OK: OK 99 3600"),
        (Override(UINT32_MAX, Unit.HOUR), "OK: OK 4294967294 3600"),
        # in its own window
        (Override(5, Unit.SECOND), "OK: OK 4 1"),
        (Override(5, Unit.MINUTE), "OK: OK 4 60"),
        (Override(5, Unit.DAY), "OK: OK 4 86400"),
        (Override(5, Unit.WEEK), "OK: OK 4 432000"),
        (Override(5, Unit.MONTH), "OK: OK 4 1036800"),
        (Override(5, Unit.YEAR), "OK: OK 4 2332800"),
        # and in multiples of it
        (Override(5, Unit.MINUTE, 15), "OK: OK 4 900"),
        (Override(5, Unit.MINUTE, 1), "OK: OK 4 60"),
        (Override(5, Unit.MINUTE, 0), "OK: OK 4 60"),
        (Override(5, Unit.YEAR, UINT32_MAX), f"OK: OK 4 {315_576_000_000 - MIDNIGHT}"),
        # a suspended tenant
        (Override(0, Unit.HOUR), "OVER_LIMIT: OVER_LIMIT 0 3600"),
    ],
)
@pytest.mark.parametrize("entries", ["team=dba", "free=x", "path=/ab", "stranger=x", "team=dba model=gpt"])
def test_an_override_takes_precedence(entries: str, override: Override, expected: str) -> None:
    """It does so with any rule or none, and is enforced even if the rule is in shadow mode."""
    assert expected == decision_text(Limiter(RULES).ask(descriptor(entries, 1, override)))


def test_a_check_before_any_use_is_not_over_a_limit_of_0() -> None:
    """A suspended tenant can still check."""
    limiter = Limiter(RULES)
    answers = [decision_text(limiter.ask(brought("team=dba", 0, hits=hits))) for hits in (0, 1, 0)]
    assert ["OK: OK 0 3600"] + ["OVER_LIMIT: OVER_LIMIT 0 3600"] * 2 == answers


def test_the_same_window_is_the_same_counter() -> None:
    """The use under the rule counts for an override with the same window, and the other way round."""
    limiter = Limiter(RULES)
    answers = [
        decision_text(limiter.ask(descriptor("team=dba", 3))),
        decision_text(limiter.ask(brought("team=dba", 100))),
        decision_text(limiter.ask(brought("team=dba", 4))),
        decision_text(limiter.ask(descriptor("team=dba", 1))),
    ]
    assert ["OK: OK 7 3600", "OK: OK 96 3600", "OVER_LIMIT: OVER_LIMIT 0 3600", "OK: OK 4 3600"] == answers


@pytest.mark.parametrize(
    "unit, multiplier", [(Unit.MINUTE, 1), (Unit.DAY, 1), (Unit.HOUR, 2), (Unit.MINUTE, 60)]
)
def test_another_window_is_another_counter(unit: Unit, multiplier: int) -> None:
    """Both may begin at the same second, or have the same length."""
    limiter = Limiter(RULES)
    limiter.ask(descriptor("team=dba", 10))
    assert "OK" == limiter.ask(brought("team=dba", 1, unit, multiplier)).code.name
    assert "OK: OK 0 3600" == decision_text(limiter.ask(descriptor("team=dba", 0)))


def test_two_limits_of_one_bucket_are_kept_apart_by_their_windows() -> None:
    """One request may have overrides for the minute and for the day of one bucket."""
    limiter = Limiter(RULES)
    asked = [brought("team=dba", 2, unit) for unit in (Unit.MINUTE, Unit.DAY)]
    answers = [decision_text(limiter.ask(*asked))]
    limiter.now += 60
    answers.append(decision_text(limiter.ask(*asked)))
    assert ["OK: OK 1 60, OK 1 86400", "OK: OK 1 60, OK 0 86340"] == answers


def test_an_override_shares_only_the_counter_with_its_rule() -> None:
    """It has neither the name, nor the metadata, nor the quota mode."""
    limiter = Limiter(RULES, dynamic_metadata=True)
    decision = limiter.ask(brought("team=dba", 5))
    (status,) = decision.statuses
    assert status.limit is not None and decision.dynamic_metadata is not None
    assert ("", False) == (status.limit.name, "metadata" in decision.dynamic_metadata)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600, OK 9 3600" == decision_text(
        limiter.ask(brought("user=x", 0), "path=/a")
    )


def test_values_that_share_a_threshold_do_not_share_an_override() -> None:
    """The override is for the value in the request, not for all values of the pattern."""
    limiter = Limiter(RULES)
    assert "OK: OK 4 3600, OK 4 3600" == decision_text(
        limiter.ask(brought("path=/a1", 5), brought("path=/a2", 5))
    )


@pytest.mark.parametrize("unit", [0, 8, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("domain", ["d", "unknown"])
def test_a_limit_in_an_unknown_unit_is_refused(domain: str, unit: int) -> None:
    """The request is invalid, with or without rules for the domain, and nothing of it is counted."""
    limiter = Limiter(RULES)
    with pytest.raises(InvalidRequest) as refusal:
        limiter.ask("team=dba", brought("team=dba", 5, unit), domain=domain)
    assert str(unit) in str(refusal.value)
    assert 0 == len(limiter.store)
