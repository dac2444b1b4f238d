"""The state of a budget relative to its limit, as signals, the API and the page show it."""

from __future__ import annotations

import pytest

from ratelimit_service.core.amendments.index import UNAMENDED
from ratelimit_service.core.budgets.bucket import bucket_now, budget
from ratelimit_service.core.budgets.state import State, line_of, state_of
from ratelimit_service.core.model import COUNTER_MAX, Limit, Rule, StatKey, Unit, Window


@pytest.mark.parametrize(
    "used, amount, low_at, expected",
    [
        (0, 100, 0.8, State.OK),
        (79, 100, 0.8, State.OK),
        (80, 100, 0.8, State.LOW),
        (99, 100, 0.8, State.LOW),
        (100, 100, 0.8, State.OVER),
        (0, 0, 0.8, State.OVER),
        # the line of 1 is the limit itself
        (99, 100, 1.0, State.OK),
        # a share of a small limit is rounded up, so that a use below the share is not low
        (2, 3, 0.8, State.OK),
        (COUNTER_MAX - 1, COUNTER_MAX, 0.8, State.LOW),
    ],
)
def test_a_use_is_low_from_its_line_on(used: int, amount: int, low_at: float, expected: State) -> None:
    assert expected is state_of(used, amount, low_at)


def test_a_line_is_of_the_decimal_number_in_the_rules() -> None:
    """In floating point, 0.07 * 100 is more than 7."""
    assert 7 == line_of(0.07, 100)


@pytest.mark.parametrize(("low_at", "expected"), [(0.0, State.OK), (0.5, State.LOW), (0.9, State.OK)])
def test_a_rule_may_have_a_line_of_its_own(low_at: float, expected: State) -> None:
    """By default, it is that of the service, here 0.8."""
    rule = Rule(StatKey("d", ("team",)), (Limit(100, Window(Unit.DAY)),), budget=True, low_at=low_at)
    now = bucket_now(rule, "{d|team=x}", UNAMENDED, 0)
    found = budget("d", (), now, {now.windows[0].key: 60}, 0.8)
    assert expected is found.state
