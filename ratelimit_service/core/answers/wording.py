"""What the refusals of one limit have in common: the message, the body, and the holes in both."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ..model import Entry, Rule, Window
from ..planning import described
from ..text import printable, shorten
from ..windows.calendars import local_time
from .dialects import Dialect, Fault, Outlook
from .template import Template, encoded, hole

PLACEHOLDERS = (
    "rule",
    "descriptor",
    "used",
    "limit",
    "unit",
    "reset_seconds",
    "resets_at",
    "resets_at_local",
    "time_zone",
)
"""What a denial_message may have in braces."""

HIDDEN = frozenset(("descriptor", "used", "limit"))
"""The placeholders of what `error_details: minimal` keeps to itself: who it was, and how much."""

_LAST_INSTANT = 253_402_300_799
"""9999-12-31T23:59:59Z: no calendar of Python's goes further."""

_DAY = 86_400

_LONGEST_PATH = 200
"""Characters of the path of a rule, which has a stranger's values in it where the request brought the limit."""


class Wording:
    """How one outlook of one limit of a rule is put. `minimal` leaves out the use, the limit and the subject.

    The JSON is written here, once; `body` fills in what differs from one refusal to the next.
    """

    __slots__ = ("_facts", "_message", "_template", "_zone", "weight")

    def __init__(
        self, rule: Rule, which: int, outlook: Outlook, dialect: Dialect | None, *, minimal: bool
    ) -> None:
        limit = rule.limits[which]
        calendar = limit.window.calendar
        self._zone = calendar.zone if calendar is not None else "UTC"
        unit = unit_text(limit.window)
        path = "" if minimal else shorten(printable(str(rule.path)), _LONGEST_PATH)
        name = limit.name or printable(rule.name) or path
        self._facts: dict[str, object] = {
            "rule": name or f"the limit of this {unit}",
            "limit": limit.amount,
            "unit": unit,
            "time_zone": self._zone,
        }
        text = rule.denial_message
        if not text or (minimal and not HIDDEN.isdisjoint(placeholders(text))):
            text = _usual(rule, name, unit, outlook, elsewhere=self._zone != "UTC", allows=limit.amount > 0)
        self._message = _parsed(text)
        self._template: Template | None = None
        if dialect is not None:
            self._template = Template(dialect.body(_fault(rule, which, outlook, name, self._zone, minimal)))
        self.weight = 5_000 + 8 * (len(name) + len(text))
        """Bytes of memory, roughly."""

    def body(self, entries: Sequence[Entry], used: int, end: int, reset: int) -> bytes:
        """The body of a refusal: `used` of the limit is used until `end`, in `reset` seconds."""
        template = self._template
        if template is None:
            return b""
        facts = {
            **self._facts,
            "descriptor": described(entries),
            "used": used,
            "reset_seconds": reset,
            "wait": f"{reset} second" if reset == 1 else f"{reset} seconds",
            "resets_at": _instant(end),
            "resets_at_local": _local(self._zone, end),
        }
        message = "".join([f"{text}{facts[name]}" if name else text for text, name in self._message])
        values = {
            "message": encoded(message),
            "descriptor": encoded(str(facts["descriptor"])),
            "used": str(used),
            "reset_seconds": str(reset),
            "delay": f'"{reset}s"',
            "resets_at": f'"{facts["resets_at"]}"',
            "resets_at_local": f'"{facts["resets_at_local"]}"',
        }
        return template.fill(values)


def unit_text(window: Window) -> str:
    """`hour`, or `15 minutes`."""
    unit = window.unit.name.lower()
    return unit if window.multiplier == 1 else f"{window.multiplier} {unit}s"


def placeholders(message: str) -> set[str]:
    """The names in braces of a denial_message that was checked when it was loaded."""
    return {name for _, name in _parsed(message) if name}


def _parsed(message: str) -> list[tuple[str, str]]:
    return [(text, name or "") for text, name, _, _ in string.Formatter().parse(message)]


def _usual(rule: Rule, name: str, unit: str, outlook: Outlook, *, elsewhere: bool, allows: bool) -> str:
    """The message of a rule without a denial_message. What it says may be shown to anybody."""
    kind = "token budget" if rule.budget else "rate limit"
    what = f"{kind} {_as_such(name)}" if name else f"the {kind} of this {unit}"
    if outlook is Outlook.NEVER:
        if allows:
            return f"This request alone is more than {what} allows. Retrying does not help."
        return f"{what[0].upper()}{what[1:]} lets nothing through. Retrying does not help."
    moment = "{resets_at} ({resets_at_local} in {time_zone})" if elsewhere else "{resets_at}"
    hint = "Try again in {wait}." if outlook is Outlook.SOON else "Retrying before then does not help."
    return f"{what[0].upper()}{what[1:]} is used up. It resets at {moment}. {hint}"


def _as_such(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _fault(rule: Rule, which: int, outlook: Outlook, name: str, zone: str, minimal: bool) -> Fault:
    """What a refusal by this limit has to say, with holes for what is not known yet."""
    limit = rule.limits[which]
    domain = printable(rule.path.domain)
    details: dict[str, Any] = {} if minimal else {"domain": domain, "descriptor": hole("descriptor")}
    if name:
        details["rule"] = name
    if not minimal:
        details |= {"used": hole("used"), "limit": limit.amount}
    details["unit"] = unit_text(limit.window)
    if outlook is not Outlook.NEVER:
        details |= {"resets_in_seconds": hole("reset_seconds"), "resets_at": hole("resets_at")}
        if zone != "UTC":
            details |= {"resets_at_local": hole("resets_at_local"), "time_zone": zone}
    return Fault(
        outlook,
        hole("message"),
        "" if minimal else domain,
        kind="tokens" if rule.budget else "requests",
        rule=name,
        resets_at="" if outlook is Outlook.NEVER else hole("resets_at"),
        delay=hole("delay"),
        limit=details,
    )


@lru_cache(maxsize=1_000)
def _instant(moment: int) -> str:
    return datetime.fromtimestamp(min(moment, _LAST_INSTANT), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=1_000)
def _local(zone: str, moment: int) -> str:
    return local_time(zone, min(moment, _LAST_INSTANT - _DAY)) if zone != "UTC" else _instant(moment)
