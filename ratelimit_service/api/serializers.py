"""The types of the service as the JSON of the API."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ..core import model
from ..core.amendments import model as amendments
from ..core.budgets.bucket import Budget, BudgetWindow
from ..core.budgets.descriptor_text import descriptor_text
from ..core.errors import InvalidRequest, Problem
from ..core.matching.tree import Domain
from ..core.rfc3339 import FIRST, LAST, moment
from ..core.text import printable, show
from ..core.windows.blocks import name as window_name
from . import response_types
from .tokens import Role


def moment_or_null(seconds: float | None) -> str | None:
    """Return a second since 1970 in RFC 3339; None for None, for 0, and for years after 9999."""
    return moment(seconds) if seconds and 0 < seconds <= amendments.LATEST else None


def second_of(text: str) -> int:
    """Return the second since 1970 of a moment in RFC 3339. Raises InvalidRequest."""
    wrong = InvalidRequest(f"{text!r} is not a moment in RFC 3339: give one such as 2026-12-01T00:00:00Z")
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None or "T" not in text.upper():
            raise wrong
        second = int(found.timestamp())
    except (ValueError, OverflowError):
        raise wrong from None
    if not FIRST <= second <= LAST:  # by its offset from UTC
        raise InvalidRequest(f"{text!r} is not within the years 1 to 9999 in UTC")
    return second


def amendment(one: amendments.Amendment) -> response_types.Amendment:
    """Return an amendment."""
    return {
        "id": one.id,
        "kind": one.kind.value,
        "domain": one.target.domain,
        "descriptor": one.target.text,
        "amount": one.amount,
        "window": one.window or None,
        "until": moment_or_null(one.until),
        "windows": one.windows or None,
        "since": moment(one.since),
        "author": one.author,
        "reason": one.reason,
        "blocks": one.blocks,
    }


def budget(one: Budget) -> response_types.Budget:
    """Return a bucket with its use."""
    rule = one.rule
    return {
        "domain": one.domain,
        "descriptor": None if one.hashed else descriptor_text(one.entries),
        "entries": [[show(key), show(value)] for key, value in one.entries],
        "bucket": one.bucket,
        "rule": None if rule is None else printable(str(rule.path)),
        "name": None if rule is None else printable(rule.name) or None,
        "source": None if rule is None else printable(rule.source) or None,
        "kind": None if rule is None else "budget" if rule.budget else "requests",
        "shadow": rule is not None and rule.shadow,
        "state": one.state.value,
        "share": round(one.share, 6),
        "windows": [_window(each) for each in one.windows],
        "amendments": [amendment(each) for each in one.amendments],
    }


def _window(one: BudgetWindow) -> response_types.Window:
    left = None if one.effective is None or one.used is None else max(one.effective - one.used, 0)
    return {
        "window": one.name,
        "name": None if one.limit is None else printable(one.limit.name) or None,
        "state": one.state.value,
        "used": one.used,
        "limit": None if one.limit is None else one.limit.amount,
        "effective_limit": one.effective,
        "remaining": left,
        "share": round(one.share, 6),
        "amended_by": [each.id for each in one.by],
        "held": one.held,
        "burn_per_second": None if one.burn is None else round(one.burn, 6),
        "runs_out_at": moment_or_null(one.runs_out),
        "forecast_by": one.forecast_by,
        "starts_at": moment_or_null(one.start),
        "resets_at": moment_or_null(one.end),
        "counter": one.key,
    }


def edit(edited: amendments.EditResult) -> response_types.Edit:
    """Return an edit and its effect."""
    if edited.reset is not None:
        target, window, counters = edited.reset
        return {
            "action": "reset",
            "id": None,
            "domain": target.domain,
            "descriptor": target.text,
            "window": window or None,
            "before": None,
            "after": None,
            "counters": [{"counter": key, "used": used} for key, used in counters],
        }
    one = edited.after or edited.before
    return {
        "action": "put" if edited.after is not None else "remove",
        "id": edited.id,
        "domain": one.target.domain if one else None,
        "descriptor": one.target.text if one else None,
        "window": (one.window or None) if one else None,
        "before": amendment(edited.before) if edited.before else None,
        "after": amendment(edited.after) if edited.after else None,
        "counters": [],
    }


def audit_line(line: amendments.AuditLine) -> response_types.AuditLine:
    """Return a line of the audit."""
    return {
        **edit(line.edited),
        "version": line.version,
        "at": moment(line.at),
        "author": line.author,
        "reason": line.reason,
        "key": line.key,
    }


def rule(one: model.Rule) -> response_types.Rule:
    """Return a rule in force."""
    return {
        "rule": printable(str(one.path)),
        "domain": one.path.domain,
        "name": printable(one.name) or None,
        "kind": "budget" if one.budget else "requests",
        "limits": [
            {
                "window": window_name(limit.window),
                "limit": limit.amount,
                "name": printable(limit.name) or None,
                "time_zone": limit.window.calendar.zone if limit.window.calendar else None,
            }
            for limit in one.limits
        ],
        "shadow": one.shadow,
        "quota": one.quota,
        "unlimited": one.unlimited,
        "source": printable(one.source) or None,
    }


def domain(one: Domain) -> response_types.DomainInForce:
    """Return a domain in force."""
    return {
        "domain": one.name,
        "rules": len(one.rules),
        "limits_as_data": len(one.limits) if one.limits is not None else 0,
        "unmatched": "deny" if one.deny_unmatched else "allow",
        "required_keys": [show(key) for key in one.required_keys],
    }


def rule_problem(one: Problem) -> response_types.RuleProblem:
    """Return a problem of the last load."""
    return {
        "file": printable(one.file),
        "line": one.line or None,
        "path": printable(one.path) or None,
        "problem": printable(one.message),
    }


def role(one: Role) -> Literal["local", "read", "admin"]:
    """Return the role of a caller."""
    return "admin" if one is Role.ADMIN else "read" if one is Role.READ else "local"
