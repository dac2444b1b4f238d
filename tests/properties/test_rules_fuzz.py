"""Any file is loaded, or refused with a problem."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.document import MappingNode, ScalarNode, SequenceNode
from ratelimit_service.core.rules.guesses import guess
from ratelimit_service.core.rules.hints import amount_hint, flag_hint, limit_hint, looks_wrong, unit_hint
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.rules.vocabulary import KEYS, Level
from ratelimit_service.sources.yaml_text import read, resolve

pytestmark = pytest.mark.fuzz

keys = sorted({key for level in KEYS.values() for key in level})
values = [
    "d",
    "day",
    "week",
    "mon",
    "04-01",
    "UTC",
    "deny",
    "[0.5]",
    "{used}",
    "5",
    "010",
    "1.5",
    "yes",
    "~",
    "a*",
    "'",
    '"',
    "\t",
    "\x07",
    "\ufeff",
    "é",
]
marks = [
    ": ",
    "- ",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "<<: ",
    "? ",
    "|",
    ">",
    "! ",
    "!!binary ",
    "%",
    "@",
    "#",
]
words = st.sampled_from([*keys, *values, *marks, "---\n", "  ", "\n"])
lines = st.lists(st.tuples(st.sampled_from(["", "  ", "    "]), st.lists(words, max_size=5)), max_size=12)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
shallow = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)
)
sound: dict[str, st.SearchStrategy[Any]] = {
    "key": st.text(min_size=1, max_size=2),
    "value": st.text(max_size=2) | st.integers(0, 5),
    "unit": st.sampled_from(["day", "HOUR"]),
    "requests_per_unit": st.none(),
    "unlimited": st.just(False),
    "replaces": st.just([{"name": "another"}]),
    "unit_multiplier": st.integers(1, 5),
    "tokens_per_unit": st.none(),
    "time_zone": st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
    "starts_on": st.none(),
    "rate_limit": st.none(),
    "rate_limits": st.none(),
    "count_refused": st.booleans(),
    "warn_at": st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
    "track": st.booleans(),
    "max_charge": st.integers(1, 2**53 - 1),
    "hold": st.just("off"),
    "hold_strictness": st.sampled_from(["mean", "P90"]),
    "hold_ttl": st.sampled_from(["60s", 5, "2m"]),
    "per_million": st.sampled_from(["2.50", 3, "0"]),
    "currency": st.just("USD"),
    "hold_max": st.sampled_from(["50%", "100%"]),
    "over_max_charge": st.sampled_from(["clamp", "REFUSE"]),
    "denial_message": st.sampled_from(["wait", "{used} of {limit}", "{{}}"]),
    "limit_headers": st.sampled_from(["always", "ON_REFUSAL"]),
    "error_format": st.sampled_from(["openai", "Gemini", "problem+json"]),
    "error_details": st.sampled_from(["full", "MINIMAL"]),
    "unmatched": st.sampled_from(["allow", "DENY"]),
    "required_keys": st.lists(st.text("ab", min_size=1), min_size=1, max_size=3, unique=True),
    "descriptors": st.none(),
    "metadata": st.dictionaries(st.text(max_size=2), scalars, max_size=2),
}


def mappings(level: Level, required: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings with some keys of a level. Nine of ten are valid, and one has a value of any kind."""
    optional = {key: sound.get(key, st.booleans()) for key in KEYS[level] if key not in required}
    well = st.fixed_dictionaries(required, optional=optional)
    broken = st.builds(lambda one, key, value: {**one, key: value}, well, st.sampled_from(keys), shallow)
    return st.integers(0, 9).flatmap(lambda number: broken if number == 9 else well)


amounts = {"requests_per_unit": st.integers(0, 5), "tokens_per_unit": st.integers(0, 2**53 - 1)}
starts = st.sampled_from(
    [
        {"unit": "day"},
        {"unit": "HOUR"},
        {"unit": "week", "starts_on": "sun"},
        {"unit": "month", "starts_on": 31},
        {"unit": "year", "starts_on": "02-29"},
    ]
)


def limits(level: Level, kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return limits with one kind of amount, and a `starts_on` that fits the unit."""
    others = mappings(level, {"name": st.sampled_from("ab"), kind: amounts[kind]})
    return st.builds(lambda one, start: {**one, **start}, others, starts)


def descriptors(limit: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return descriptors with a `rate_limit` or `rate_limits`."""
    return mappings(Level.DESCRIPTOR, {"key": sound["key"], "share_threshold": st.just(False), limit: value})


leaves = st.one_of(
    [descriptors("rate_limit", limits(Level.RATE_LIMIT, kind)) for kind in amounts]
    + [
        descriptors("rate_limits", st.lists(limits(Level.RATE_LIMITS, kind), min_size=1, max_size=3))
        for kind in amounts
    ]
)
levels = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda one, below: {**one, "descriptors": below}, leaves, st.lists(inner, max_size=3)
    ),
    max_leaves=5,
)
configurations = mappings(Level.FILE, {"domain": sound["key"], "descriptors": st.lists(levels, max_size=2)})


def outcome(text: bytes | str) -> str:
    """Return `loaded`, with every rule compiled, or `refused`, with a reason and a file."""
    try:
        loaded = load([read("f.yaml", text)], budget_domains=frozenset("ab"))
    except InvalidRules as error:
        refusal = error
    else:
        RuleTree(loaded.domains)
        return "loaded"
    assert refusal.problems
    for problem in refusal.problems:
        assert "f.yaml" == problem.file
        assert problem.message
        assert str(problem).isprintable()
    return "refused"


@given(st.binary(max_size=200))
def test_any_bytes_are_loaded_or_refused(text: bytes) -> None:
    """The loader raises nothing but InvalidRules for any bytes."""
    assert outcome(text) in ("loaded", "refused")


@given(lines)
def test_any_text_that_looks_like_yaml_is_loaded_or_refused(text: list[tuple[str, list[str]]]) -> None:
    """The loader raises nothing but InvalidRules for text made of pieces of YAML and of keys."""
    assert outcome("\n".join(indent + "".join(parts) for indent, parts in text)) in ("loaded", "refused")


@given(configurations)
def test_any_structure_is_loaded_or_refused(structure: dict[str, Any]) -> None:
    """The loader raises nothing but InvalidRules for any structure of keys with values of any kind."""
    assert outcome(yaml.safe_dump(structure, allow_unicode=True)) in ("loaded", "refused")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "? " * 50_000, "'" * 99_999]
)
def test_endless_nesting_is_refused_at_once(text: str) -> None:
    """Input that would use up the time or the stack of a parser is refused early."""
    assert "refused" == outcome(text)


almost = st.text("0123456789 .,_'kKmMeE+-/abdhiorstuy*&!#:\n\u00a0\u201c\u200b\u0663", max_size=25)


@given(almost, st.sampled_from(Level))
def test_an_almost_valid_value_gets_a_hint_or_none(text: str, level: Level) -> None:
    """A hint never fails instead of the error that it belongs to."""
    kind, value = resolve(text)
    node = ScalarNode(1, kind, text, value)
    unit_hint(text)
    amount_hint(node, 0, 2**53 - 1, endless=True)
    flag_hint(node)
    limit_hint(text)
    looks_wrong(text)
    for shape in (node, SequenceNode(1), MappingNode(1, [(node, node)])):
        assert guess(text, level, shape).hint
