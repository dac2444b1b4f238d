"""The keys about charges: `max_charge` and `over_max_charge`."""

from __future__ import annotations

from ..model import COUNTER_MAX, MAX_CHARGE
from .fields import Fields

KEYS = ("max_charge", "over_max_charge")

_LARGER = {"clamp": False, "refuse": True}


def read_max_charge(fields: Fields, *, budget: bool) -> tuple[int, bool]:
    """Return the largest charge of a rule, and whether a larger one is refused.

    Without `max_charge` it is MAX_CHARGE for a budget. Request limits count as upstream does.
    """
    most = fields.whole("max_charge", 1, COUNTER_MAX, MAX_CHARGE if budget else COUNTER_MAX)
    larger = fields.choice("over_max_charge", _LARGER)
    return most or COUNTER_MAX, _LARGER[larger or "clamp"]
