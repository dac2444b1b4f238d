"""The rule that a descriptor matches."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.answers.statkeys import stat_level
from ratelimit_service.core.matching.tree import Match, Pattern, RuleTree
from ratelimit_service.core.model import (
    DescriptorRule,
    DomainRules,
    Entry,
    Limit,
    Rule,
    StatKey,
    Unit,
    Window,
)


def rule(name: str, **more: Any) -> Rule:
    return Rule(StatKey("d", (name,)), (Limit(1, Window(Unit.DAY)),), name=name, **more)


def node(
    key: str, value: str = "", met: Rule | None = None, *below: DescriptorRule, **more: Any
) -> DescriptorRule:
    return DescriptorRule(key.encode(), value.encode(), met, below, **more)


def match(*rules: DescriptorRule, entries: str) -> Match | None:
    """Match the entries `key=value key=value`."""
    pairs = [pair.partition("=") for pair in entries.split()]
    wanted = tuple(Entry(key.encode(), value.encode()) for key, _, value in pairs)
    return RuleTree([DomainRules("d", rules)]).match("d", wanted)


def met(*rules: DescriptorRule, entries: str) -> str | None:
    found = match(*rules, entries=entries)
    return found.rule.name if found else None


PRECEDENCE = (
    node("team", "", rule("any")),
    node("team", "d*", rule("d*")),
    node("team", "db*", rule("db*")),
    node("team", "dba", rule("dba")),
)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        # exact before wildcard before key
        ("team=dba", "dba"),
        ("team=dbb", "d*"),  # the first wildcard of the file, not the closest
        ("team=d", "d*"),
        ("team=x", "any"),
        ("team=", "any"),
        # nothing else
        ("user=dba", None),
        ("teams=dba", None),
        ("team=dba model=x", None),
    ],
)
def test_exact_comes_before_wildcard_and_wildcard_before_key(entries: str, expected: str | None) -> None:
    """An exact value takes precedence over a wildcard, and a wildcard over the key alone."""
    assert expected == met(*PRECEDENCE, entries=entries)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("*", "", True),
        ("*", "anything", True),
        ("a*", "a", True),
        ("a*", "ba", False),
        ("*a", "ba", True),
        ("a*a", "a", False),  # the two must not overlap
        ("a*a", "aa", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("ab*bc", "abc", False),
        ("a**c", "ac", True),
        ("/api/*/items", "/api/v1/items", True),
        ("/api/*/items", "/api/items", False),
    ],
)
def test_a_star_stands_for_any_bytes_or_none(text: str, value: str, expected: bool) -> None:
    """The pieces between the stars occur in order, and do not overlap."""
    assert expected is Pattern(text.encode()).matches(value.encode())


def test_a_rule_applies_only_to_descriptors_of_its_depth() -> None:
    """A descriptor that ends above a rule, or continues below it, matches nothing."""
    tree = node("team", "", None, node("model", "", rule("model"), node("user", "", rule("user"))))
    assert [None, "model", "user", None] == [
        met(tree, entries=entries)
        for entries in ("team=a", "team=a model=b", "team=a model=b user=c", "team=a model=b user=c x=d")
    ]


def test_matching_never_backtracks() -> None:
    """The exact branch has no rule for the model, and the default branch is not tried: an allowlist."""
    trusted = node("team", "trusted")
    others = node("team", "", None, node("model", "", rule("model")))
    assert [None, "model"] == [
        met(trusted, others, entries=f"team={team} model=x") for team in ("trusted", "x")
    ]


def test_the_lookup_joins_key_and_value_as_upstream_does() -> None:
    """(foo, bar) matches `foo_bar` without a value, and has a counter other than (foo_bar, )."""
    rules = (node("foo_bar", "", rule("joined")),)
    first, second = match(*rules, entries="foo=bar"), match(*rules, entries="foo_bar=")
    assert first is not None and second is not None
    assert first.rule is second.rule
    assert ("foo=bar",) == first.bucket_entries
    assert ("foo_bar=",) == second.bucket_entries


def test_values_that_share_a_threshold_share_a_bucket() -> None:
    """All values that match the pattern count together, and so does the text of the pattern itself."""
    shared = node("path", "/api/*", rule("api"), share_threshold=True)
    found = [match(shared, entries=f"path={path}") for path in ("/api/a", "/api/b", "/api/*")]
    assert {("path=/api/*",)} == {each.bucket_entries for each in found if each}
    assert 3 == len([each for each in found if each])


def test_nested_rules_share_the_bucket_too() -> None:
    """The pattern replaces the value in their buckets."""
    tree = node("path", "/api/*", None, node("user", "", rule("user")), share_threshold=True)
    found = match(tree, entries="path=/api/a user=u")
    assert found is not None
    assert ("path=/api/*", "user=u") == found.bucket_entries


@pytest.mark.parametrize(
    ("tree", "entries", "expected"),
    [
        (node("k", "", rule("k")), "k=v", ("k",)),
        (node("k", "", rule("k", detailed_metric=True)), "k=v", ("k_v",)),
        (node("k", "", rule("k", detailed_metric=True)), "k=", ("k_",)),
        (node("k", "", rule("k"), value_to_metric=True), "k=v", ("k_v",)),
        (node("k", "", rule("k"), value_to_metric=True), "k=", ("k",)),
        (node("k", "a*", rule("k_a*"), value_to_metric=True), "k=ab", ("k_ab",)),
        (node("k", "a*", rule("k_a*"), value_to_metric=True, share_threshold=True), "k=ab", ("k_a*",)),
        (node("k", "a*", rule("k_a*", detailed_metric=True), share_threshold=True), "k=ab", ("k_a*",)),
        (node("k", "", rule("k", detailed_metric=True)), "k=10.0.0.1", ("k_10_0_0_1",)),
    ],
)
def test_statistics_have_the_path_or_the_values(
    tree: DescriptorRule, entries: str, expected: tuple[str, ...]
) -> None:
    """detailed_metric and value_to_metric add the values of the request. A shared value stays a pattern."""
    found = match(tree, entries=entries)
    assert found is not None
    assert StatKey("d", expected) == found.stat


def test_levels_are_written_as_upstream_writes_them() -> None:
    """`:` and `|` would end a statsd name, and a dot would end a level."""
    assert "k_a_b_c" == stat_level(b"k_a:b|c")
