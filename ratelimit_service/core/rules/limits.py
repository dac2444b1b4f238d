"""From one `rate_limit`, or one entry of `rate_limits`, to a limit."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from typing import NamedTuple

from ..model import COUNTER_MAX, UINT32_MAX, Calendar, Limit, Unit, Window
from ..text import printable
from ..windows.calendars import WEEKDAYS
from .fields import Fields, describe, quoted
from .hints import UNITS, unit_hint
from .zones import is_zone, nearest_zone

BOTH_KINDS = (
    "to limit both, give each a descriptor with a key of its own, "
    "as config/examples/requests-and-tokens.yaml does"
)
"""The hint for a limit of requests and tokens together."""

_UNIT_NAMES = ", ".join(unit.name.lower() for unit in UNITS)
_LEAP_YEAR = 2000

_day_of_month = re.compile(r"0?[1-9]|[12][0-9]|3[01]")
_month_and_day = re.compile(r"(0[1-9]|1[0-2])-([0-9]{2})")


class Defaults(NamedTuple):
    """What a limit inherits from its domain: the time zone, or an empty text; and whether it is a budget."""

    zone: str
    budgets: bool


class ReadLimit(NamedTuple):
    """A limit of a file. `limit` is None if it is unlimited or has an error.

    `amount_key` is the key of its amount, or empty if there is not exactly one.
    """

    fields: Fields
    name: str
    unlimited: bool
    amount_key: str
    limit: Limit | None


def read_limit(fields: Fields, defaults: Defaults, *, in_list: bool) -> ReadLimit:
    """Read a limit, and check it by itself.

    Without an amount, a `rate_limit` means 0, as with upstream. In a list, the amount is required.
    """
    name = fields.text("name") or ""
    if "unlimited" in fields.misplaced:
        return ReadLimit(fields, name, False, "", None)
    unlimited = fields.flag("unlimited")
    amounts = {
        "requests_per_unit": fields.whole("requests_per_unit", 0, UINT32_MAX, absent=0),
        "tokens_per_unit": fields.whole("tokens_per_unit", 0, COUNTER_MAX, absent=0),
    }
    multiplier = fields.whole("unit_multiplier", 1, UINT32_MAX, absent=1)
    unit = _unit(fields, unlimited)
    given = [key for key in amounts if fields.given(key)]
    if unlimited:
        _check_with_unlimited(fields)
    elif len(given) > 1:
        fields.error("tokens_per_unit", f"cannot be combined with requests_per_unit: {BOTH_KINDS}")
    elif fields.unclear and not given:
        pass  # the unknown key, which is an error, may be that of the amount
    elif not given and in_list:
        fields.error("", "has no amount: set requests_per_unit or tokens_per_unit")
    elif not given and unlimited is False:
        fields.warn("requests_per_unit", "is missing and read as 0: every request is over the limit")
    amount_key = given[0] if len(given) == 1 else ""
    amount = amounts[amount_key or "requests_per_unit"]
    zone = ("" if unlimited else read_zone(fields)) or defaults.zone
    limit = None
    if unit:
        budget = defaults.budgets or amount_key == "tokens_per_unit"
        calendar = _calendar(fields, unit, zone, always=budget)
        if amount is not None and multiplier is not None:
            limit = Limit(amount, Window(unit, multiplier, calendar), printable(name))
    return ReadLimit(fields, name, bool(unlimited), amount_key, limit)


def read_zone(fields: Fields) -> str:
    """Return the time zone of `time_zone`; empty if it is missing or invalid."""
    name = fields.text("time_zone")
    if name is None or not fields.given("time_zone"):
        return ""
    if is_zone(name):
        return name
    near = None if fields.report_is_full else nearest_zone(name)
    hint = (
        f"did you mean {near!r}?" if near else "use a name of the IANA database, such as Europe/Berlin or UTC"
    )
    fields.error("time_zone", f"unknown time zone {quoted(name)}: {hint}")
    return ""


def _unit(fields: Fields, unlimited: bool | None) -> Unit | None:
    """Return the unit of the window; None if the limit is unlimited or its unit is invalid."""
    text = fields.text("unit")
    if text is None or unlimited is None:
        return None
    unit = Unit.__members__.get(text.upper(), Unit.UNKNOWN)
    if unlimited:
        if unit:
            fields.error("unit", "cannot be combined with unlimited: remove one of them")
        elif text:
            fields.warn(
                "unit", f"{quoted(text)} is not a unit, and has no effect beside unlimited: remove it"
            )
    elif not text:
        fields.missing("unit", f"is missing: use one of {_UNIT_NAMES}")
    elif not unit:
        hint = unit_hint(text) or f"use one of {_UNIT_NAMES}"
        fields.error("unit", f"unknown unit {quoted(text)}: {hint}")
    return None if unlimited else unit or None


def _check_with_unlimited(fields: Fields) -> None:
    for key in ("unit_multiplier", "tokens_per_unit", "time_zone", "starts_on"):
        if fields.given(key):
            fields.error(key, "cannot be combined with unlimited: remove one of them")
    if fields.given("requests_per_unit"):
        fields.warn("requests_per_unit", "has no effect beside unlimited: remove one of them")


def _calendar(fields: Fields, unit: Unit, zone: str, *, always: bool) -> Calendar | None:
    """Return the calendar of a window, or None if the limit needs none."""
    start = _start(fields, unit)
    if not (always or zone or start):
        return None
    return (start or Calendar())._replace(zone=zone or "UTC")


def _start(fields: Fields, unit: Unit) -> Calendar | None:
    """Return the calendar of `starts_on`; None if it is missing or invalid."""
    if not fields.given("starts_on"):
        return None
    if unit not in _STARTS:
        name = unit.name.lower()
        fields.error(
            "starts_on", f"is for weeks, months and years, and has no meaning for unit {name}: remove it"
        )
        return None
    wanted, read = _STARTS[unit]
    node = fields.scalar("starts_on", wanted)
    if node is None:
        return None
    calendar = read(node.text)
    if calendar is None:
        fields.error("starts_on", f"must be {wanted}, not {describe(node)}")
    return calendar


def _weekday(text: str) -> Calendar | None:
    for number, name in enumerate(WEEKDAYS):
        if text.lower() in (name, name[:3]):
            return Calendar(weekday=number)
    return None


def _day(text: str) -> Calendar | None:
    return Calendar(day=int(text)) if _day_of_month.fullmatch(text) else None


def _month_day(text: str) -> Calendar | None:
    found = _month_and_day.fullmatch(text)
    if found is None:
        return None
    month, day = int(found[1]), int(found[2])
    return Calendar(day=day, month=month) if 1 <= day <= monthrange(_LEAP_YEAR, month)[1] else None


_STARTS = {
    Unit.WEEK: ("a weekday, such as monday or mon", _weekday),
    Unit.MONTH: ("a day of the month, from 1 to 31", _day),
    Unit.YEAR: ("a month and a day, such as 04-01 for the first of April", _month_day),
}
"""For each unit with `starts_on`: its description in messages, and the function that reads its raw text."""


def check_together(limits: Sequence[ReadLimit]) -> None:
    """Report limits of one list that conflict with each other.

    Windows must differ in unit or multiplier. Windows that differ only in the time zone often begin at one
    instant, and would share a counter.
    """
    kinds: dict[str, str] = {}
    windows: dict[object, str] = {}
    for each in limits:
        path = each.fields.path
        if each.amount_key:
            kinds.setdefault(each.amount_key, path)
            key, first = next(iter(kinds.items()))
            if key != each.amount_key:
                message = (
                    f"must be {key}, as in {first}: all limits of a list must be of one kind; {BOTH_KINDS}"
                )
                each.fields.error(each.amount_key, message)
        if each.limit and not each.fields.unclear:
            first = windows.setdefault(each.limit.window[:2], path)
            if first != path:
                each.fields.error(
                    "unit", f"has the same window as {first}: give each limit another unit or unit_multiplier"
                )
