"""The wording of refusals by one limit: the message and the body, with placeholders for what differs."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from ..model import Entry, Rule, Window
from ..plan import descriptor_text
from ..rfc3339 import LAST
from ..rfc3339 import moment as rfc3339
from ..text import printable, shorten
from ..windows.calendars import local_time
from .dialects import Dialect
from .dialects.fault import Fault, Outlook
from .template import Template, encoded, slot

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
"""The placeholders of a denial_message, in braces."""

HIDDEN = frozenset(("descriptor", "used", "limit"))
"""The placeholders that `error_details: minimal` hides."""

_DAY = 86_400

_MOST_INSTANTS = 1_000

_LONGEST_PATH = 200
"""The characters of a rule's path that are shown. The path of a limit override has a caller's values."""


class Instants:
    """Instants as text, cached: the refusals of a moment name few of them."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, int], str] = {}

    def utc(self, moment: int) -> str:
        """Return an instant as UTC: `2026-11-22T00:00:00Z`."""
        return self._text("UTC", moment)

    def local(self, zone: str, moment: int) -> str:
        """Return an instant as the clocks in `zone` show it: `2026-11-22T00:00:00+01:00`."""
        return self._text(zone, moment)

    def _text(self, zone: str, moment: int) -> str:
        text = self._texts.get((zone, moment))
        if text is None:
            if len(self._texts) >= _MOST_INSTANTS:
                self._texts.clear()
            if zone == "UTC":
                text = rfc3339(moment)
            else:
                text = local_time(zone, min(moment, LAST - _DAY))
            self._texts[zone, moment] = text
        return text


class Wording:
    """The wording of refusals by one limit of a rule, for one outlook.

    `minimal` leaves out the use, the amount and the descriptor. The JSON is written once, in `__init__`;
    `body` fills in what differs from one refusal to the next.
    """

    __slots__ = ("_facts", "_message", "_template", "_zone", "weight")

    def __init__(
        self, rule: Rule, index: int, outlook: Outlook, dialect: Dialect | None, *, minimal: bool
    ) -> None:
        limit = rule.limits[index]
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
            text = _default_message(
                rule, name, unit, outlook, elsewhere=self._zone != "UTC", allows=limit.amount > 0
            )
        self._message = _parsed(text)
        self._template: Template | None = None
        if dialect is not None:
            self._template = Template(dialect.body(_fault(rule, index, outlook, name, self._zone, minimal)))
        self.weight = 5_000 + 8 * (len(name) + len(text))
        """The approximate bytes of memory that it takes."""

    def body(self, entries: Sequence[Entry], used: int, end: int, reset: int, instants: Instants) -> bytes:
        """Return the body of a refusal. The limit resets at `end`, in `reset` seconds."""
        template = self._template
        if template is None:
            return b""
        facts = {
            **self._facts,
            "descriptor": descriptor_text(entries),
            "used": used,
            "reset_seconds": reset,
            "wait": f"{reset} second" if reset == 1 else f"{reset} seconds",
            "resets_at": instants.utc(end),
            "resets_at_local": instants.local(self._zone, end),
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
    """Return the window as people say it: `hour`, or `15 minutes`."""
    unit = window.unit.name.lower()
    return unit if window.multiplier == 1 else f"{window.multiplier} {unit}s"


def placeholders(message: str) -> set[str]:
    """Return the names in braces of a denial_message, which the rule reader has checked."""
    return {name for _, name in _parsed(message) if name}


def _parsed(message: str) -> list[tuple[str, str]]:
    return [(text, name or "") for text, name, _, _ in string.Formatter().parse(message)]


def _default_message(
    rule: Rule, name: str, unit: str, outlook: Outlook, *, elsewhere: bool, allows: bool
) -> str:
    """Return the message for a rule without a denial_message. It has nothing that `minimal` hides."""
    kind = "token budget" if rule.budget else "rate limit"
    what = f"{kind} {_escaped(name)}" if name else f"the {kind} of this {unit}"
    if outlook is Outlook.NEVER:
        if allows:
            return f"This request alone is more than {what} allows. Retrying does not help."
        return f"{what[0].upper()}{what[1:]} lets nothing through. Retrying does not help."
    moment = "{resets_at} ({resets_at_local} in {time_zone})" if elsewhere else "{resets_at}"
    hint = "Try again in {wait}." if outlook is Outlook.SOON else "Retrying before then does not help."
    return f"{what[0].upper()}{what[1:]} is used up. It resets at {moment}. {hint}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _fault(rule: Rule, index: int, outlook: Outlook, name: str, zone: str, minimal: bool) -> Fault:
    """Return the content of refusals by this limit, with slots for what differs."""
    limit = rule.limits[index]
    domain = printable(rule.path.domain)
    details: dict[str, Any] = {} if minimal else {"domain": domain, "descriptor": slot("descriptor")}
    if name:
        details["rule"] = name
    if not minimal:
        details |= {"used": slot("used"), "limit": limit.amount}
    details["unit"] = unit_text(limit.window)
    if outlook is not Outlook.NEVER:
        details |= {"resets_in_seconds": slot("reset_seconds"), "resets_at": slot("resets_at")}
        if zone != "UTC":
            details |= {"resets_at_local": slot("resets_at_local"), "time_zone": zone}
    return Fault(
        outlook,
        slot("message"),
        "" if minimal else domain,
        kind="tokens" if rule.budget else "requests",
        rule=name,
        resets_at="" if outlook is Outlook.NEVER else slot("resets_at"),
        delay=slot("delay"),
        limit=details,
    )


def fault_in_flight(rule: Rule, held: int, delay: int, *, minimal: bool) -> Fault:
    """Return the content of a refusal because `held` tokens are held, of a request that may retry after
    `delay`.
    """
    path = "" if minimal else shorten(printable(str(rule.path)), _LONGEST_PATH)
    name = rule.limits[0].name or printable(rule.name) or path
    what = f"token budget {name}" if name else f"the token budget of this {unit_text(rule.limits[0].window)}"
    held_tokens = "The tokens that are left" if minimal else f"{held} tokens"
    wait = f"{delay} second" if delay == 1 else f"{delay} seconds"
    message = f"{held_tokens} of {what} are held by running requests. Try again in {wait}."
    domain = "" if minimal else printable(rule.path.domain)
    details: dict[str, Any] = {} if minimal else {"domain": domain, "held": held}
    if name:
        details["rule"] = name
    return Fault(
        Outlook.SOON,
        message,
        domain,
        kind="tokens",
        rule=name,
        delay=f"{delay}s",
        limit=details | {"reason": "in_flight", "retry_after_seconds": delay},
    )
