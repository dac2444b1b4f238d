"""What people see as JSON; docs/api.md has the fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..core.amendments.model import Amendment
from ..core.amendments.records import to_json
from ..core.budgets.bucket import Budget, BudgetWindow
from ..core.budgets.texts import pairs
from .listing import Listing

_LATEST = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that a time in JSON can be."""


def time_of(moment: float) -> str | None:
    """Return seconds since 1970 as RFC 3339 in UTC; None for 0, which stands for none, and for the years after 9999."""
    if not 0 < moment <= _LATEST:
        return None
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def listing(found: Listing) -> dict[str, Any]:
    """Return a page of budgets."""
    return {
        "budgets": [budget(each) for each in found.budgets],
        "next_cursor": found.next_cursor or None,
        "partial": found.partial,
        "partial_reason": found.partial_reason or None,
        "scanned": found.scanned,
    }


def budget(found: Budget) -> dict[str, Any]:
    """Return one bucket."""
    rule = found.rule
    return {
        "domain": found.domain,
        "descriptor": pairs(found.entries),
        "hashed": found.hashed,
        "rule": None if rule is None else str(rule.path),
        "name": None if rule is None else rule.name or None,
        "source": None if rule is None else rule.source or None,
        "kind": None if rule is None else "tokens" if rule.budget else "requests",
        "shadow": rule is not None and rule.shadow,
        "state": found.state.value,
        "share": found.share,
        "windows": [_window(each) for each in found.windows],
        "amendments": [amendment(each) for each in found.amendments],
    }


def amendment(found: Amendment) -> dict[str, Any]:
    """Return an amendment, with times as the rest of the API has them."""
    fields = to_json(found)
    for name in ("until", "since"):
        if name in fields:
            fields[name] = time_of(fields[name])
    return fields


def _window(found: BudgetWindow) -> dict[str, Any]:
    return {
        "window": found.name,
        "name": found.limit.name or None if found.limit is not None else None,
        "used": found.used,
        "limit": None if found.limit is None else found.limit.amount,
        "effective_limit": found.effective,
        "held": None,
        "state": found.state.value,
        "share": found.share,
        "starts_at": time_of(found.start),
        "resets_at": time_of(found.end),
        "burn_per_second": None,
        "runs_out_at": None,
        "amended_by": [each.id for each in found.by],
        "counter": found.key,
    }
