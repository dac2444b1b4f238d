"""Limits in a request, which replace configured limits."""

from __future__ import annotations

from ..errors import InvalidRequest
from ..model import COUNTER_MAX, MAX_CHARGE, Calendar, Descriptor, Limit, Override, Rule, Unit, Window
from . import keys
from .tree import Domain, Match, stat_of_entries

OVERRIDE_SOURCE = "the request"
"""The source of a rule that is made from the limit in a request."""


def override_limit(override: Override) -> Limit:
    """Return an override as a limit with upstream's windows. Raises InvalidRequest for an unknown unit."""
    if not Unit.SECOND <= override.unit <= Unit.WEEK:
        raise InvalidRequest(
            f"a limit override has the unknown unit {override.unit}: use 1 (second) to 7 (week)"
        )
    return Limit(override.amount, Window(Unit(override.unit), max(1, override.multiplier)))


def overridden(domain: Domain, descriptor: Descriptor, override: Override, match: Match | None) -> Match:
    """Return the match of a descriptor with an override. `match` is the configured rule, if there is one.

    An override of a rule with limits keeps the kind of the rule, and replaces its limit with the same unit.
    If the rule has no such unit, the override is the only limit. It is enforced even if the rule is in shadow
    mode.
    """
    limit = override_limit(override)
    stat = stat_of_entries(domain.name, descriptor.entries)
    bucket_entries = tuple([keys.entry_text(*entry) for entry in descriptor.entries])
    base = match.rule if match is not None and not match.rule.unlimited else None
    if base is None:
        if domain.budgets:
            limit = _on_calendar(limit, Calendar(domain.zone or "UTC"))
        rule = Rule(
            stat,
            (limit,),
            budget=domain.budgets,
            error_format=domain.error_format,
            error_details=domain.error_details,
            max_charge=MAX_CHARGE if domain.budgets else COUNTER_MAX,
            source=OVERRIDE_SOURCE,
        )
        return Match(rule, bucket_entries, stat)
    replaced = next((own for own in base.limits if _same_unit(own.window, limit.window)), None)
    if replaced is not None:
        new = Limit(limit.amount, replaced.window, replaced.name if base.budget else "")
        limits = tuple([new if own is replaced else own for own in base.limits])
    else:
        calendar = base.limits[0].window.calendar
        limits = (_on_calendar(limit, Calendar(calendar.zone)) if calendar else limit,)
    rule = Rule(
        stat,
        limits,
        budget=base.budget,
        count_refused=base.count_refused,
        warn_at=base.warn_at,
        track=base.track,
        denial_message=base.denial_message,
        limit_on_refusal_only=base.limit_on_refusal_only,
        error_format=base.error_format,
        error_details=base.error_details,
        max_charge=base.max_charge,
        signal=base.signal,
        low_at=base.low_at,
        notify=base.notify,
        refuse_larger=base.refuse_larger,
        ledger=base.ledger,
        price=base.price,
        source=OVERRIDE_SOURCE,
    )
    return Match(rule, bucket_entries, stat)


def _same_unit(one: Window, other: Window) -> bool:
    return (one.unit, one.multiplier) == (other.unit, other.multiplier)


def _on_calendar(limit: Limit, calendar: Calendar) -> Limit:
    return Limit(limit.amount, limit.window._replace(calendar=calendar))
