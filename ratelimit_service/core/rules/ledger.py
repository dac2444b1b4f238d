"""The key about the ledger: `ledger`. prices.py reads the price."""

from __future__ import annotations

import re

from ..ledger.rule import BOOKS, DEFAULT_KEEP, LedgerRule
from ..model import Limit, Unit
from .fields import Fields, describe
from .vocabulary import Level

KEYS = ("ledger", "price")

_LONGEST = 3_660
_days = re.compile(r"([0-9]{1,4})d")


def read_ledger(fields: Fields, limits: list[Limit], zone: str, *, requests: bool) -> LedgerRule | None:
    """Return the ledger of a rule; None for none. `requests` is whether its limits are known to be no
    budget.
    """
    own = fields.mapping("ledger", Level.LEDGER)
    if own is None:
        return None
    by = own.choice("by", BOOKS) or "hour"
    keep = _keep(own)
    if requests:
        fields.error("ledger", "is for budgets: give the limit tokens_per_unit, or remove ledger")
    elif any([limit.window.unit is Unit.SECOND for limit in limits]):
        fields.error(
            "ledger", "is for windows of a minute or longer: remove ledger, or the window of seconds"
        )
    return LedgerRule(keep, by, zone or "UTC")


def _keep(fields: Fields) -> int:
    """Return the seconds of `keep`."""
    wanted = f"1d to {_LONGEST}d, such as 400d"
    node = fields.scalar("keep", wanted) if fields.given("keep") else None
    if node is None:
        return DEFAULT_KEEP
    match = _days.fullmatch(node.text)
    days = int(match[1]) if match else 0
    if not 1 <= days <= _LONGEST:
        fields.error("keep", f"must be {wanted}, not {describe(node)}")
        return DEFAULT_KEEP
    return days * 86_400
