"""Guess the key that an unknown key stands for.

If the guess is certain (`requestsPerUnit`, `Unit`, `tokens`), the value is read under the guessed key, so
that one mistake is one error. Otherwise no missing key is reported for that mapping, because the unknown key
may be the missing one.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from .document import Kind, MappingNode, Node, ScalarNode, SequenceNode
from .hints import unit_hint, unit_named
from .vocabulary import KEYS, Level, homes

_LIMITS = (Level.RATE_LIMIT, Level.RATE_LIMITS)

_SHAPES: dict[str, type[Node]] = {
    "descriptors": SequenceNode,
    "rate_limits": SequenceNode,
    "replaces": SequenceNode,
    "required_keys": SequenceNode,
    "warn_at": SequenceNode,
    "rate_limit": MappingNode,
    "metadata": MappingNode,
}
"""The type of the value of a key; a scalar for all other keys."""

_ALIASES = {
    (Level.FILE, "descriptor"): "descriptors",
    (Level.FILE, "tz"): "time_zone",
    (Level.DESCRIPTOR, "descriptor"): "descriptors",
    (Level.DESCRIPTOR, "children"): "descriptors",
    (Level.DESCRIPTOR, "nested"): "descriptors",
    (Level.DESCRIPTOR, "limit"): "rate_limit",
    (Level.DESCRIPTOR, "rate"): "rate_limit",
    (Level.DESCRIPTOR, "limits"): "rate_limits",
    (Level.DESCRIPTOR, "rates"): "rate_limits",
    (Level.DESCRIPTOR, "shadow"): "shadow_mode",
    (Level.DESCRIPTOR, "quota"): "quota_mode",
    **{(level, "requests"): "requests_per_unit" for level in _LIMITS},
    **{(level, "tokens"): "tokens_per_unit" for level in _LIMITS},
    **{(level, "multiplier"): "unit_multiplier" for level in _LIMITS},
    **{(level, "tz"): "time_zone" for level in _LIMITS},
}
"""The meant key, by the level and the unknown key without case and separators."""

_PERIODS = ("per", "units", "window", "interval", "period", "duration", "every", "timeunit", "seconds")
_AMOUNTS = ("limit", "max", "maxvalue", "maximum", "amount", "count", "quota", "budget")
_RULES = ("limits", "limit", "rules", "policies", "ratelimiting", "ratelimitpolicies")
_NO_BURST = "a window has no burst: remove it"
_per = re.compile(r"(request|token)s?per(second|minute|hour|day|week|month|year)")
_short = re.compile(r"([rt])p([smhd])")
_SHORT = {"r": "request", "t": "token", "s": "second", "m": "minute", "h": "hour", "d": "day"}


class Guess(NamedTuple):
    """A guess: the key that is meant, or empty if that is not certain; and a hint for the error message."""

    meant: str
    hint: str


def guess(text: str, level: Level, node: Node) -> Guess:
    """Guess what the unknown key `text` with the value `node` means at `level`."""
    name = _squeezed(text)
    meant = next((key for key in KEYS[level] if _squeezed(key) == name), "") or _ALIASES.get(
        (level, name), ""
    )
    if meant:
        return Guess(
            meant if isinstance(node, _SHAPES.get(meant, ScalarNode)) else "", f"did you mean {meant!r}?"
        )
    before, colon, after = text.partition(":")
    if colon and before in KEYS[level]:
        return Guess("", f"a space is missing after the ':': write '{before}: {after}'")
    hint = _hint_of_a_file(name, node) if level is Level.FILE else ""
    if level in _LIMITS:
        found = _of_a_limit(name, node)
        if found is not None:
            return found
    return Guess("", hint or _nearest(text, name, level, node))


def _hint_of_a_file(name: str, node: Node) -> str:
    if isinstance(node, MappingNode) and {"domain", "descriptors"} & {key.text for key, _ in node.items}:
        return "domain and descriptors belong at the top of the file: move them there"
    if name in _RULES:
        return "rules belong under 'descriptors', each limit in its descriptor"
    if name == "domains":
        return "a file has one domain, such as 'domain: token-budgets': write a file for each domain"
    return ""


def _of_a_limit(name: str, node: Node) -> Guess | None:
    text = node.text if isinstance(node, ScalarNode) else ""
    if name in _PERIODS:
        if unit_named(text):
            return Guess("unit", "did you mean 'unit'?")
        hint = unit_hint(text)
        return Guess("", hint if hint.startswith("write") else "did you mean 'unit'?")
    if name in _AMOUNTS:
        return Guess("", "did you mean 'requests_per_unit', or 'tokens_per_unit'?")
    if name == "burst":
        return Guess("", _NO_BURST)
    if (long := _per.fullmatch(name)) is not None:
        return Guess("", _both(long[1], long[2]))
    if (short := _short.fullmatch(name)) is not None:
        return Guess("", _both(_SHORT[short[1]], _SHORT[short[2]]))
    return None


def _both(what: str, unit: str) -> str:
    return f"write '{what}s_per_unit' and 'unit: {unit}'"


def _nearest(text: str, name: str, level: Level, node: Node) -> str:
    fitting = [key for key in KEYS[level] if isinstance(node, _SHAPES.get(key, ScalarNode))]
    near = difflib.get_close_matches(text.lower(), fitting, 1) or difflib.get_close_matches(
        text.lower(), KEYS[level], 1
    )
    if near:
        return f"did you mean {near[0]!r}?"
    elsewhere = [key for keys in KEYS.values() for key in keys]
    found = next((key for key in elsewhere if _squeezed(key) == name), "")
    for key in [found] if found else difflib.get_close_matches(text.lower(), elsewhere, 1, 0.8):
        return f"did you mean {key!r}? It belongs {homes(key)}"
    return f"the keys here are {', '.join(KEYS[level])}"


def key_of_a_number(key: ScalarNode, node: Node) -> str:
    """Return a hint for a key that is a number: `{requests_per_unit: 1,000}` has the key 000."""
    lone = isinstance(node, ScalarNode) and node.kind is Kind.NULL
    if key.kind is Kind.INT and lone and re.fullmatch("[0-9]{3}", key.text):
        return "a number is written without commas, as 1000000 or 1_000_000"
    return ""


def _squeezed(text: str) -> str:
    """Return `text` in lower case, without separators and quotes."""
    return re.sub("[^0-9a-z:]", "", text.lower())
