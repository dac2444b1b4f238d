"""The compiled tree finds the rules that a naive search finds, and counts buckets together that share one."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml
from hypothesis import example as trying
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.budgets.rule_candidates import consider
from ratelimit_service.core.matching.buckets import find
from ratelimit_service.core.matching.tree import Match, Pattern, RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

pytestmark = pytest.mark.fuzz

Described = dict[str, Any]
"""A descriptor as in a file."""

# Few letters and the two that mean something, so that rules and requests meet, nearly meet and run into each
# other.
texts = st.text("ab_*", max_size=4)
keys = st.text("ab_*", min_size=1, max_size=3)


def composite(described: Described) -> str:
    """Return the name of a descriptor among its siblings: `key`, or `key_value` if it has a value."""
    value = described.get("value", "")
    return f"{described['key']}_{value}" if value else str(described["key"])


def siblings(level: st.SearchStrategy[Described]) -> st.SearchStrategy[list[Described]]:
    return st.lists(level, max_size=5, unique_by=composite)


def sharing(described: Described) -> Described:
    """Remove `share_threshold` from a descriptor without a wildcard, which cannot share a threshold."""
    if "*" not in composite(described):
        described.pop("share_threshold", None)
    return described


leaves = st.fixed_dictionaries(
    {"key": keys, "rate_limit": st.just({"unit": "day", "requests_per_unit": 1})},
    optional={"value": texts, "share_threshold": st.booleans()},
).map(sharing)
branches = st.fixed_dictionaries(
    {"key": keys, "descriptors": siblings(leaves)},
    optional={
        "value": texts,
        "share_threshold": st.booleans(),
        "rate_limit": st.just({"unit": "day", "requests_per_unit": 1}),
    },
).map(sharing)
levels = siblings(st.one_of(leaves, branches))
entries = st.lists(st.tuples(keys, texts), max_size=3)


@st.composite
def requests(draw: st.DrawFn, rules: list[Described]) -> list[tuple[str, str]]:
    """Return entries derived from rules, so that most of them match: stars filled in, joined parts
    exchanged.
    """
    asked = []
    for _ in range(draw(st.integers(1, 3))):
        if not rules or draw(st.integers(0, 5)) == 0:
            break
        one = draw(st.sampled_from(rules))
        filled = [
            part + draw(st.sampled_from(["", "", "a", "b", "_", "*"])) for part in composite(one).split("*")
        ]
        joined = "".join(filled) if draw(st.booleans()) else composite(one)
        if "value" not in one and draw(st.booleans()):
            joined += "_" + draw(texts)
        cuts = [place for place, char in enumerate(joined) if char == "_" and place > 0]
        cut = draw(st.sampled_from(cuts)) if cuts else len(joined)
        asked.append((joined[:cut] or "a", joined[cut + 1 :]))
        rules = one.get("descriptors", [])
    return asked + draw(entries if draw(st.integers(0, 3)) == 0 else st.just([]))


@st.composite
def asked_of_rules(draw: st.DrawFn) -> tuple[list[Described], list[list[tuple[str, str]]]]:
    """Rules, and some requests made after them."""
    rules = draw(levels)
    return rules, draw(st.lists(requests(rules), min_size=3, max_size=8))


def compiled(rules: list[Described]) -> RuleTree:
    """The rules as they come into force, through a file."""
    text = yaml.safe_dump({"domain": "d", "descriptors": rules})
    return RuleTree(load([read("rules.yaml", text)]).domains)


def met(tree: RuleTree, asked: list[tuple[str, str]]) -> Match | None:
    return tree.match("d", tuple([Entry(key.encode(), value.encode()) for key, value in asked]))


def walk(rules: list[Described], asked: list[tuple[str, str]]) -> list[Described] | None:
    """Return the descriptors on the way of a request, by upstream's README; None if it leaves the tree."""
    path = []
    for key, value in asked:
        found = (
            # written out, or else the first pattern of the file that fits, or else the key alone
            [one for one in rules if composite(one) == f"{key}_{value}"]
            or [one for one in rules if "*" in composite(one) and fits(composite(one), f"{key}_{value}")]
            or [one for one in rules if composite(one) == key]
        )
        if not found:
            return None
        path.append(found[0])
        rules = found[0].get("descriptors", [])  # whatever else would have fitted is out
    return path


def fits(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def paths(rules: list[Described], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all rules, in the order of the file."""
    found = []
    for one in rules:
        here = (*above, composite(one))
        found += [here] if "rate_limit" in one else []
        found += paths(one.get("descriptors", []), here)
    return found


@trying(([{"key": "a", "value": "*"}, {"key": "a", "rate_limit": {"unit": "day"}}], [[("a", "b")]]))
@trying(([{"key": "a_b", "rate_limit": {"unit": "day"}}], [[("a", "b")], [("a_b", "b")]]))
@trying(([{"key": "*b", "rate_limit": {"unit": "day"}}], [[("ab", "a")], [("ab", "")], [("a", "b")]]))
@given(asked_of_rules())
def test_the_tree_finds_the_same_rule_as_a_naive_matcher(
    example: tuple[list[Described], list[list[tuple[str, str]]]],
) -> None:
    """The rule where the descriptor ends exactly, with the same precedence at each level."""
    rules, several = example
    tree = compiled(rules)
    for asked in several:
        path = walk(rules, asked)
        there = path is not None and path != [] and "rate_limit" in path[-1]
        expected = tuple(map(composite, path)) if path and there else None
        found = met(tree, asked)
        assert expected == (found.rule.path.levels if found else None)


def test_a_pattern_matches_texts_that_contain_its_pieces_in_order() -> None:
    """Every short pattern is tried on every short text: its pieces occur in order, without overlap, from the
    first byte to the last.
    """
    texts = ["".join(text) for size in range(6) for text in itertools.product("ab", repeat=size)]
    for size in range(1, 8):
        for pattern in map("".join, itertools.product("ab*", repeat=size)):
            if "*" in pattern:
                compiled, plain = Pattern(pattern.encode()), re.compile(pattern.replace("*", ".*"))
                expected = [text for text in texts if plain.fullmatch(text)]
                assert expected == [text for text in texts if compiled.matches(text.encode())], pattern


@given(levels)
def test_the_tree_has_every_rule_once(rules: list[Described]) -> None:
    """Rules of any depth are in the order of the file."""
    tree = compiled(rules)
    assert sorted(paths(rules)) == sorted(rule.path.levels for rule in tree.rules)


def counted_as(rules: list[Described], asked: list[tuple[str, str]]) -> Any:
    """Return what a descriptor is counted as: its entries, with the pattern for those that share one."""
    path = walk(rules, asked)
    if not path or "rate_limit" not in path[-1]:
        return None
    return [
        (key, id(one)) if one.get("share_threshold") else (key, value)
        for (key, value), one in zip(asked, path, strict=True)
    ]


LIMITED: Described = {"rate_limit": {"unit": "day"}}
BOTH_SHARE = {"share_threshold": True, **LIMITED}


@trying(
    (
        [{"key": "a__a", "value": "*", **BOTH_SHARE}, {"key": "a", "value": "*", **BOTH_SHARE}],
        [[("a_", "a_b")], [("a_", "b")]],
    )
)
@trying(([{"key": "a", "value": "*b", **BOTH_SHARE}], [[("a", "b")], [("a", "*b")], [("a", "ab")]]))
@trying(([{"key": "a*", **BOTH_SHARE}], [[("a", "a*")], [("a", "b")], [("a*", "b")], [("a*", "")]]))
@trying(
    (
        [{"key": "a", "value": "*", "share_threshold": True, "descriptors": [{"key": "b", **LIMITED}]}],
        [[("a", "a"), ("b", "a")], [("a", "b"), ("b", "a")], [("a", "b"), ("b", "b")]],
    )
)
@given(asked_of_rules())
def test_only_values_that_share_a_threshold_count_together(
    example: tuple[list[Described], list[list[tuple[str, str]]]],
) -> None:
    """Two descriptors have one bucket only if they are equal, or share everything in which they differ."""
    rules, several = example
    tree = compiled(rules)
    for one, other in itertools.combinations(several, 2):
        first, second = met(tree, one), met(tree, other)
        if first is not None and second is not None:
            together = counted_as(rules, one) == counted_as(rules, other)
            assert together is (first.bucket_entries == second.bucket_entries), (
                one,
                other,
                first.bucket_entries,
                second.bucket_entries,
            )


@trying(([{"key": "a", "value": "*b", **BOTH_SHARE}], [[("a", "b")], [("a", "*b")], [("a", "ab")]]))
@trying(
    ([{"key": "a*", **BOTH_SHARE}, {"key": "*", **BOTH_SHARE}], [[("a", "b")], [("b", "a")], [("ab", "*")]])
)
@given(asked_of_rules())
def test_the_way_back_from_a_bucket_finds_its_rule(
    example: tuple[list[Described], list[list[tuple[str, str]]]],
) -> None:
    """It has the entries by which amendments know it, and an explanation names the same winner."""
    rules, several = example
    tree = compiled(rules)
    domain = tree.domains["d"]
    for asked in several:
        entries = tuple([Entry(key.encode(), value.encode()) for key, value in asked])
        match = domain.match(entries)
        considered = consider(domain, entries)
        assert (match.rule if match is not None else None) is considered.winner
        if match is None:
            continue
        found = find(domain, match.bucket_entries)
        assert found is not None
        assert (match.rule, domain.entries_of_bucket(entries), False) == found
