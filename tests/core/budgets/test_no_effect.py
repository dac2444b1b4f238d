"""Why an amendment would change no limit, so that a misspelt one is noticed."""

from __future__ import annotations

import pytest

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import Amendment, override, top_up
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.budgets import no_effect
from ratelimit_service.core.budgets.bucket import bucket_now
from ratelimit_service.core.budgets.no_effect import why_no_effect
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

NOW = 1_795_249_200
RULES = """
domain: budgets
descriptors:
  - key: team
    rate_limits:
      - {unit: hour, tokens_per_unit: 5}
      - {unit: day, tokens_per_unit: 50}
    descriptors:
      - {key: model, rate_limit: {unit: month, tokens_per_unit: 6}}
  - key: team
    value: dba
    rate_limit: {unit: minute, tokens_per_unit: 5}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: path, value: /api/*, share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 9}}
  - key: outer
    descriptors:
      - {key: inner, rate_limit: {unit: hour, tokens_per_unit: 6}}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)


def why(*amendments: Amendment, tree: RuleTree | None = TREE) -> str:
    """Return why the last of these would have no effect, beside the others."""
    all_of_them = Amendments()
    for each in amendments:
        all_of_them.put(each)
    target = amendments[-1].target
    entries = tuple([Entry(entry.key, entry.pieces[0]) for entry in target.entries])
    match = tree.match(target.domain, entries) if tree is not None and target.exact else None
    stack = all_of_them.find(target.domain, entries)
    found = bucket_now(match.rule, "", stack, NOW) if match is not None and match.rule.limits else None
    return why_no_effect(tree, amendments[-1], stack, found, NOW)


def to(text: str, amount: int = 7, window: str = "", domain: str = "budgets") -> Amendment:
    return override(parse(domain, text), amount, window=window, since=NOW)


def add(text: str, window: str = "") -> Amendment:
    return top_up(parse("budgets", text), 7, "key", window=window, since=NOW)


EFFECTIVE = [
    to("team=x"),
    to("team=x", 0),
    to("team=x", 5, "day"),
    add("team=x", "hour"),
    to("team=dba", 5, "minute"),
    to("team=*", 5, "minute"),
    to("team=x,model=*", 5, "month"),
    to("outer=*,inner=1"),
    to("*"),
    to("*", 0, "month"),
    to("free=x", 0),
    to("free=*", 0),
    to(r"path=/api/\*"),
    to("path=/api/*"),
]


@pytest.mark.parametrize("amendment", EFFECTIVE, ids=str)
def test_nothing_is_said_of_an_amendment_that_has_an_effect(amendment: Amendment) -> None:
    assert "" == why(amendment)


NOT = "no rule in force limits"
ROWS = [
    (
        to("team=x", domain="budget"),
        "the service has no rules for the domain 'budget': did you mean 'budgets'?",
    ),
    (to("*", 0, domain="x"), "the service has no rules for the domain 'x': its domains are budgets"),
    (to("tem=x"), f"{NOT} tem=x"),
    (to("tem=x", 0), f"{NOT} tem=x, and the block refuses it all the same"),
    (to("tem=x", 0, "hour"), f"{NOT} tem=x"),
    (to("outer=x"), f"{NOT} outer=x"),
    (to("tem=*"), f"{NOT} descriptors like tem=*"),
    (to("outer=*", 0), f"{NOT} descriptors like outer=*, and the block refuses them all the same"),
    (to("model=*,team=x"), f"{NOT} descriptors like model=*,team=x"),
    (to("team=x", 5, "week"), "it changes no limit of team=x: the rule has no window week, but hour, day"),
    (add("team=dba", "hour"), "it changes no limit of team=dba: the rule has no window hour, but minute"),
    (
        to("team=*", 5, "month"),
        "it changes no limit of team=*: no rule has a window month, but hour, day, minute",
    ),
    (to("*", 5, "year"), "it changes no limit of *: no rule has a window year, but hour, day, month, minute"),
    (to("free=x"), "free=x is unlimited: only a block of every window has an effect"),
    (to("free=x", 0, "day"), "free=x is unlimited: only a block of every window has an effect"),
    (to("path=/api/1", 0), r"path=/api/1 shares the bucket path=/api/\*: amend that"),
]


@pytest.mark.parametrize(("amendment", "expected"), ROWS)
def test_an_amendment_without_an_effect_has_a_reason(amendment: Amendment, expected: str) -> None:
    """With what was probably meant."""
    assert expected == why(amendment)


def test_the_amendments_of_the_same_bucket_are_a_reason() -> None:
    """A top-up does not lift a block, and a more specific override comes first."""
    assert "it changes no limit of team=x: nothing is added to a block" == why(to("team=x", 0), add("team=x"))
    both = [to("team=x", 5, "hour"), to("team=x", 5, "day")]
    expected = "it changes no limit of team=x: a more specific override comes first"
    assert expected == why(*both, to("team=x", 9))
    assert "" == why(both[0], to("team=x", 9))


def test_before_the_first_load_there_is_no_domain() -> None:
    assert "the service has no rules for the domain 'budgets': it has no domains" == why(
        to("*", 0), tree=None
    )


def test_of_too_many_rules_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a change does not wait for it."""
    monkeypatch.setattr(no_effect, "_MOST_LOOKED_AT", 3)
    assert "" == why(to("tem=*"))
