"""`signal` of a rule: the state, the used share and the remainder, on answers that are not refusals."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.amendments.model import top_up
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.answers.signals import HIDDEN, Signal, Signals
from ratelimit_service.core.budgets.state import State
from ratelimit_service.core.model import COUNTER_MAX, Decision, Override, Unit
from tests.limiter import Limiter, descriptor

RULES = f"""
domain: d
descriptors:
  - {{key: team, rate_limit: {{unit: hour, tokens_per_unit: 1000}}, signal: [metadata, upstream, caller]}}
  - {{key: strict, rate_limit: {{unit: hour, tokens_per_unit: 100}}, signal: [caller], low_at: 0.5}}
  - {{key: inside, rate_limit: {{unit: hour, tokens_per_unit: 10}}, signal: [metadata]}}
  - key: secret
    rate_limit: {{unit: hour, tokens_per_unit: 10}}
    signal: [metadata, caller]
    error_details: minimal
  - {{key: shadow, rate_limit: {{unit: hour, tokens_per_unit: 10}}, signal: [caller], shadow_mode: true}}
  - {{key: quota, rate_limit: {{unit: hour, tokens_per_unit: 10}}, signal: [caller], quota_mode: true}}
  - {{key: other, rate_limit: {{unit: hour, tokens_per_unit: 10}}, quota_mode: true}}
  - {{key: none, rate_limit: {{unit: hour, tokens_per_unit: 0}}, signal: [caller], shadow_mode: true}}
  - key: huge
    rate_limit: {{unit: hour, tokens_per_unit: {COUNTER_MAX}}}
    max_charge: {COUNTER_MAX}
    signal: [metadata]
  - {{key: silent, rate_limit: {{unit: hour, tokens_per_unit: 10}}}}
  - {{key: free, rate_limit: {{unlimited: true}}}}
  - key: several
    signal: [caller]
    rate_limits:
      - {{unit: hour, tokens_per_unit: 100}}
      - {{unit: day, tokens_per_unit: 1000}}
"""


def signals(limiter: Limiter, *keys: str) -> Signals:
    decision = limiter.ask(*[descriptor(f"{key}=x", 0) for key in keys])
    assert "OK" == decision.code.name
    assert decision.signals is not None
    return decision.signals


def charged(used: int, key: str, **policy: Any) -> Limiter:
    limiter = Limiter(RULES, **policy)
    limiter.ask(descriptor(f"{key}=x", used))
    return limiter


@pytest.mark.parametrize(
    "used, expected",
    [
        (0, Signal(State.OK, 0, 1000)),
        (799, Signal(State.OK, 7990, 201)),
        (800, Signal(State.LOW, 8000, 200)),
        (999, Signal(State.LOW, 9990, 1)),
    ],
)
def test_the_signal_of_a_check_has_the_remaining_budget(used: int, expected: Signal) -> None:
    """Each target of the rule gets it. The state low begins at NEAR_LIMIT_RATIO."""
    assert Signals(expected, expected, expected) == signals(charged(used, "team"), "team")


def test_the_line_of_low_is_the_rule_s_or_that_of_the_service() -> None:
    """It is low_at, or else NEAR_LIMIT_RATIO."""
    assert State.LOW is signals(charged(50, "strict"), "strict").caller.state  # type: ignore[union-attr]
    assert State.LOW is signals(charged(300, "team", near_limit_ratio=0.3), "team").caller.state  # type: ignore[union-attr]


def test_a_share_is_rounded_down() -> None:
    """Otherwise a share could be shown as 0.8 without the state low."""
    limiter = Limiter(RULES.replace("1000}, signal", "1000000}, signal"))
    limiter.ask(descriptor("team=x", 799_999))
    assert Signal(State.OK, 7_999, 200_001) == signals(limiter, "team").caller


def test_the_request_that_crosses_the_limit_hears_that_it_is_over() -> None:
    """The request passes: it charges an estimate of its cost with the check."""
    decision = Limiter(RULES).ask(descriptor("team=x", 1_200))
    assert Signal(State.OVER, 12_000, 0) == decision.signals.caller  # type: ignore[union-attr]


def test_a_rule_in_shadow_mode_signals_beyond_its_limit() -> None:
    """So a soft limit can choose the cheaper model and refuse nobody."""
    assert Signals(caller=Signal(State.OVER, 15_000, 0)) == signals(charged(15, "shadow"), "shadow")
    assert Signals(caller=Signal(State.OVER, 10_000, 0)) == signals(Limiter(RULES), "none")


def test_a_quota_that_is_used_up_signals_while_another_has_room() -> None:
    """The request passes, and the next one may not."""
    limiter = charged(10, "quota")
    assert Signals(caller=Signal(State.OVER, 10_000, 0)) == signals(limiter, "quota", "other")


def test_shadow_mode_of_the_service_signals_as_well() -> None:
    """SHADOW_MODE turns the refusal into this OK."""
    limiter = charged(1_000, "team", shadow_mode=True)
    assert Signal(State.OVER, 10_000, 0) == signals(limiter, "team").caller


def test_a_refusal_has_no_signal() -> None:
    """The refusal itself has more information."""
    decision = charged(1_000, "team").ask(descriptor("team=x", 0))
    assert ("OVER_LIMIT", None) == (decision.code.name, decision.signals)


def test_each_value_is_the_worst_of_all_windows() -> None:
    """The hour has the fewest tokens, the day the largest share: a caller that obeys each value keeps to
    both.
    """
    limiter = Limiter(RULES)
    for _ in range(10):
        limiter.ask(descriptor("several=x", 90))
        limiter.now += 3_600
    limiter.ask(descriptor("several=x", 10))
    assert Signals(caller=Signal(State.LOW, 9_100, 90)) == signals(limiter, "several")


def test_of_several_descriptors_each_target_gets_the_worst_that_is_for_it() -> None:
    """A signal for the gateway alone does not reach the caller through another rule."""
    limiter = charged(9, "inside")
    limiter.ask(descriptor("team=x", 100))
    team, both = Signal(State.OK, 1_000, 900), Signal(State.LOW, 9_000, 1)
    for keys in (("team", "inside"), ("inside", "team"), ("inside", "free", "team", "stranger", "silent")):
        assert Signals(both, team, team) == signals(limiter, *keys)


def test_minimal_details_leave_the_state_alone() -> None:
    """Headers, which leave the gateway, have only the state, also if another rule has numbers."""
    hidden = Signal(State.LOW, HIDDEN, HIDDEN)
    assert Signals(Signal(State.LOW, 8_000, 2), None, hidden) == signals(charged(8, "secret"), "secret")
    for keys in (("secret", "strict"), ("strict", "secret")):
        assert hidden == signals(charged(8, "secret"), *keys).caller
    assert hidden == signals(charged(800, "team", error_details="minimal"), "team").caller


def test_every_budget_is_exact() -> None:
    """It is exact up to 2^53 - 1, while the statuses of the protocol end at 2^32 - 1."""
    assert Signals(Signal(State.OK, 0, COUNTER_MAX)) == signals(Limiter(RULES), "huge")
    assert Signals(Signal(State.LOW, 9_999, 1)) == signals(charged(COUNTER_MAX - 1, "huge"), "huge")


def test_amendments_count() -> None:
    """A top-up leaves more."""
    limiter = charged(900, "team")
    limiter.amend(top_up(parse("d", "team=x"), 1_000, "key", until=2**32))
    assert Signal(State.OK, 4_500, 1_100) == signals(limiter, "team").caller


def test_a_limit_in_the_request_keeps_the_signal_of_its_rule() -> None:
    """It only replaces the amount."""
    decision = Limiter(RULES).ask(descriptor("team=x", 0, Override(10, Unit.HOUR)))
    assert Signal(State.OK, 0, 10) == decision.signals.caller  # type: ignore[union-attr]


@pytest.mark.parametrize("keys", [("silent",), ("free",), ("stranger",), ("silent", "free")])
def test_rules_without_signal_cost_nothing(keys: tuple[str, ...]) -> None:
    """The answer is not searched for other fields either."""
    limiter = Limiter(RULES)
    decision: Decision = limiter.ask(*[descriptor(f"{key}=x", 0) for key in keys])
    assert (None, None) == (decision.signals, decision.dynamic_metadata)
