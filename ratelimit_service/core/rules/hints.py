"""Hints for invalid values: `hours`, `30d`, `5k`, `1,000,000`, `yes` in quotes.

A hint ends an error message and says what to write. It never changes how a value is read: upstream refuses
the same values.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal

from ..model import COUNTER_MAX, Unit
from ..text import either
from ..windows.blocks import SECONDS
from .document import Kind, ScalarNode

UNITS = (Unit.SECOND, Unit.MINUTE, Unit.HOUR, Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR)
"""The units by ascending length."""

_ALIASES = {
    Unit.SECOND: ("s", "sec", "secs", "persecond", "secondly"),
    Unit.MINUTE: ("min", "mins", "perminute", "minutely"),
    Unit.HOUR: ("h", "hr", "hrs", "perhour", "hourly"),
    Unit.DAY: ("d", "dy", "perday", "daily"),
    Unit.WEEK: ("w", "wk", "wks", "perweek", "weekly"),
    Unit.MONTH: ("mo", "mon", "mth", "mths", "permonth", "monthly"),
    Unit.YEAR: ("y", "yr", "yrs", "peryear", "yearly", "annual", "annually"),
}
_UNITS = {
    **{name: unit for unit, names in _ALIASES.items() for name in names},
    **{name: unit for unit in UNITS for name in (unit.name.lower(), f"{unit.name.lower()}s")},
}
_PERIODS = {
    "quarter": (3, Unit.MONTH),
    "quarterly": (3, Unit.MONTH),
    "fortnight": (2, Unit.WEEK),
    "fortnightly": (2, Unit.WEEK),
    "biweekly": (2, Unit.WEEK),
    "halfyear": (6, Unit.MONTH),
    "semester": (6, Unit.MONTH),
    "decade": (10, Unit.YEAR),
}
_SECONDS = {SECONDS[unit]: unit for unit in (Unit.WEEK, Unit.DAY, Unit.HOUR, Unit.MINUTE)}

_QUOTES = "\"'`\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2039\u203a"
_INVISIBLE = "\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u202f\u2060\ufeff"

_several = re.compile(r"([0-9]{1,9})[ _-]*([a-z]+)")
_grouped = re.compile(r"[0-9]{1,3}(?:[,.' \u00a0\u2009\u202f_][0-9]{3})+")
_scaled = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(k|m|g|b|t|thousand|million|billion|trillion)")
_scientific = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?[eE]\+?[0-9]{1,2}")
_followed = re.compile(
    r"([0-9][0-9_]{0,18})(?: ?(?:tokens?|requests?|reqs?|hits?))?(?: ?(?:/|per) ?([a-z]+))?"
)
_SCALES = {
    **dict.fromkeys(("k", "thousand"), 10**3),
    **dict.fromkeys(("m", "million"), 10**6),
    **dict.fromkeys(("g", "b", "billion"), 10**9),
    **dict.fromkeys(("t", "trillion"), 10**12),
}
_ENDLESS = ("unlimited", "infinite", "infinity", "inf", ".inf", "none", "no limit", "-1")
_TRUE, _FALSE = ("true", "yes", "on", "y", "1", "enabled"), ("false", "no", "off", "n", "0", "disabled")


def unit_named(text: str) -> Unit | None:
    """Return the unit that `text` certainly means: abbreviated, in the plural, or in typographic quotes."""
    return _UNITS.get(re.sub("[ _-]", "", _bare(text).lower()))


def unit_hint(text: str) -> str:
    """Return what to write instead of an invalid unit, or an empty text."""
    text = _bare(text).lower()
    unit = unit_named(text)
    if unit:
        return f"did you mean {unit.name.lower()!r}?"
    if text == "m":
        return "write 'minute' or 'month'"
    several = _period(text)
    if several and several[0] == 1:
        return f"write 'unit: {several[1].name.lower()}'"
    if several:
        return f"write 'unit: {several[1].name.lower()}' with 'unit_multiplier: {several[0]}'"
    near = difflib.get_close_matches(text[:40], [unit.name.lower() for unit in UNITS], 1, 0.7)
    return f"did you mean {near[0]!r}?" if near else ""


def _period(text: str) -> tuple[int, Unit] | None:
    """Return the number and the unit that a text such as `30d`, `quarter` or `3600` means."""
    name = re.sub("[ _-]", "", text)
    if name in _PERIODS:
        return _PERIODS[name]
    found = _several.fullmatch(text)
    if found and int(found[1]) and found[2] in (*_UNITS, "m"):  # beside a number an m is a minute, as in Go
        return int(found[1]), _UNITS.get(found[2], Unit.MINUTE)
    seconds = int(text) if re.fullmatch("[1-9][0-9]{1,8}", text) else 0
    if seconds < 60:  # a small number may as well be the protocol's number of a unit
        return None
    length = next((length for length in _SECONDS if seconds % length == 0), 1)
    return seconds // length, _SECONDS.get(length, Unit.SECOND)


def amount_hint(node: ScalarNode, least: int, most: int, *, endless: bool) -> str:
    """Return what to write instead of an invalid number, or an empty text.

    The number must be from `least` to `most`. `endless` is whether `unlimited: true` may be meant.
    """
    text = _bare(node.text).lower()
    if node.kind is Kind.STRING and re.fullmatch("[0-9][0-9_]*", text):
        return "remove the quotes"
    if endless and text in _ENDLESS:
        return "for no limit, write 'unlimited: true' instead of the amount and the unit"
    if endless and node.kind is Kind.INT and most < node.value <= COUNTER_MAX:
        return f"a budget (tokens_per_unit) may have up to {COUNTER_MAX}"
    meant = [number for number in _numbers(text) if least <= number <= most]
    if not meant:
        return ""
    unit = _followed.fullmatch(text)
    beside = _UNITS.get(unit[2]) if endless and unit and unit[2] else None
    also = f" and 'unit: {beside.name.lower()}'" if beside else ""
    return f"write {either(map(str, meant))}{also}"


def _numbers(text: str) -> list[int]:
    """Return the whole numbers that a text may mean."""
    grouped = [int(re.sub("[^0-9]", "", text))] if _grouped.fullmatch(text) else []
    if (found := _scaled.fullmatch(text)) is not None:
        return _whole([Decimal(found[1]) * _SCALES[found[2]]])
    if re.fullmatch(r"[0-9]{1,15}\.[0-9]{1,9}", text):  # 1.000 is one or a thousand
        return _whole([Decimal(text)]) + grouped
    if _scientific.fullmatch(text):
        return _whole([Decimal(text)])
    if (found := _followed.fullmatch(text)) is not None:
        return [int(found[1].replace("_", ""))]
    return grouped


def _whole(numbers: Iterable[Decimal]) -> list[int]:
    return [
        int(number) for number in numbers if number <= COUNTER_MAX and number == number.to_integral_value()
    ]


def flag_hint(node: ScalarNode) -> str:
    """Return what to write instead of an invalid truth value, or an empty text."""
    text = _bare(node.text).lower()
    for words, value in ((_TRUE, "true"), (_FALSE, "false")):
        if text in words:
            quoted = node.kind is Kind.STRING and text == value
            return "remove the quotes" if quoted else f"write {value}"
    return ""


def limit_hint(text: str) -> str:
    """Return what to write instead of a limit in one text, such as `5/hour`, or an empty text."""
    text = _bare(text).lower()
    if text in _ENDLESS:
        return "write {unlimited: true}"
    found = _followed.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        return ""
    key = "tokens_per_unit" if "token" in text else "requests_per_unit"
    return f"write {{unit: {_UNITS[found[2]].name.lower()}, {key}: {int(found[1].replace('_', ''))}}}"


def looks_wrong(text: str) -> str:
    """Return what is wrong with the characters of a text, or an empty text.

    Editors and chat programs insert typographic quotes and no-break spaces, which YAML takes for ordinary
    text.
    """
    if text.isascii():
        return ""
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        return f"has {text[0]}typographic quotes{text[-1]}, which are part of the text: use \" or '"
    found = next((char for char in text if char in _INVISIBLE), "")
    return (
        f"has a character that is invisible (U+{ord(found):04X}): remove it, or write it as a space"
        if found
        else ""
    )


def _bare(text: str) -> str:
    """Return `text` without the quotes and invisible characters around it."""
    return text.strip(_QUOTES + _INVISIBLE + " ")
