"""How near a use is to its limit."""

from __future__ import annotations

import enum
import math
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache


class State(enum.Enum):
    """How near a bucket is to its limit, by the worst of its windows, in the order of urgency."""

    OK = "ok"
    LOW = "low"
    """The use is at the line of `low_at` of the rule, by default NEAR_LIMIT_RATIO, or above it."""
    OVER = "over"
    """Nothing is left: the next request is refused, unless the rule is in shadow mode."""
    BLOCKED = "blocked"
    """An override of 0 blocks it."""

    @property
    def urgency(self) -> int:
        """Return 0 for OK, and more for what is more urgent."""
        return URGENCY[self]


URGENCY = {state: number for number, state in enumerate(State)}


@lru_cache(maxsize=4096)
def line_of(share: float, amount: int) -> int:
    """Return the use at which a share of an amount is reached.

    A share is the decimal number in the rules: 7 % of 100 is 7, not 7.000000000000001 (0.07 * 100).
    """
    return math.ceil(Fraction(Decimal(repr(share))) * amount)


def state_of(used: int, amount: int, low_at: float) -> State:
    """Return the state of a window that is not blocked; it is low from the share `low_at` on."""
    if used >= amount:
        return State.OVER
    return State.LOW if used >= line_of(low_at, amount) else State.OK
