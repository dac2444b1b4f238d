"""Guess which key was meant by one that the language does not have.

Where the guess is sure (`requestsPerUnit`, `Unit`, `tokens`), the value is read as that of the key that was meant, so that
one mistake is one error. Where it is not, checks for missing keys leave that mapping alone, because the unknown key may be
the one that they would miss.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from .document import Kind, Mapping, Node, Scalar, Sequence
from .hints import unit_hint, unit_named
from .vocabulary import KEYS, Level, homes

_LIMITS = (Level.RATE_LIMIT, Level.RATE_LIMITS)

_SHAPES: dict[str, type[Node]] = {
    "descriptors": Sequence,
    "rate_limits": Sequence,
    "replaces": Sequence,
    "required_keys": Sequence,
    "warn_at": Sequence,
    "rate_limit": Mapping,
    "metadata": Mapping,
}
"""What stands under a key; under all others a scalar."""

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
"""By the level and the key without case and separators. Sure where the value has the shape of what is meant."""

_PERIODS = ("per", "units", "window", "interval", "period", "duration", "every", "timeunit", "seconds")
_AMOUNTS = ("limit", "max", "maxvalue", "maximum", "amount", "count", "quota", "budget")
_RULES = ("limits", "limit", "rules", "policies", "ratelimiting", "ratelimitpolicies")
_NO_BURST = "a window has no burst: remove it"
_per = re.compile(r"(request|token)s?per(second|minute|hour|day|week|month|year)")
_short = re.compile(r"([rt])p([smhd])")
_SHORT = {"r": "request", "t": "token", "s": "second", "m": "minute", "h": "hour", "d": "day"}


class Guess(NamedTuple):
    """What an unknown key may mean: the key of this level, if it is sure; and the end of the error's sentence."""

    meant: str
    hint: str


def guess(text: str, level: Level, node: Node) -> Guess:
    """Return what `text`, which is no key of the language, may mean at `level`, where it has the value `node`."""
    name = _squeezed(text)
    meant = next((key for key in KEYS[level] if _squeezed(key) == name), "") or _ALIASES.get(
        (level, name), ""
    )
    if meant:
        return Guess(
            meant if isinstance(node, _SHAPES.get(meant, Scalar)) else "", f"did you mean {meant!r}?"
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
    if isinstance(node, Mapping) and {"domain", "descriptors"} & {key.text for key, _ in node.items}:
        return "domain and descriptors stand at the top of the file: move what is under it there"
    if name in _RULES:
        return "rules stand under 'descriptors', each limit at the descriptor that it is for"
    if name == "domains":
        return "a file has one domain, such as 'domain: token-budgets': give each a file of its own"
    return ""


def _of_a_limit(name: str, node: Node) -> Guess | None:
    text = node.text if isinstance(node, Scalar) else ""
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
    fitting = [key for key in KEYS[level] if isinstance(node, _SHAPES.get(key, Scalar))]
    near = difflib.get_close_matches(text.lower(), fitting, 1) or difflib.get_close_matches(
        text.lower(), KEYS[level], 1
    )
    if near:
        return f"did you mean {near[0]!r}?"
    elsewhere = [key for keys in KEYS.values() for key in keys]
    found = next((key for key in elsewhere if _squeezed(key) == name), "")
    for key in [found] if found else difflib.get_close_matches(text.lower(), elsewhere, 1, 0.8):
        return f"did you mean {key!r}? It belongs to {homes(key)}"
    return f"the keys here are {', '.join(KEYS[level])}"


def key_of_a_number(key: Scalar, node: Node) -> str:
    """Return what to say of a key that is a number: `{requests_per_unit: 1,000}` has the key 000 with nothing behind it."""
    lone = isinstance(node, Scalar) and node.kind is Kind.NULL
    if key.kind is Kind.INT and lone and re.fullmatch("[0-9]{3}", key.text):
        return "a number is written without commas, as 1000000 or 1_000_000"
    return ""


def _squeezed(text: str) -> str:
    """`text` without case, separators and quotes: `requestsPerUnit`, `Requests-Per-Unit` and `“requests_per_unit”` are alike."""
    return re.sub("[^0-9a-z:]", "", text.lower())
