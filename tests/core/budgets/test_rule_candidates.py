"""The reasons why a rule limits a descriptor and other rules do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import Amendment, override, top_up
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.budgets import rule_candidates
from ratelimit_service.core.budgets.bucket import bucket_now
from ratelimit_service.core.budgets.rule_candidates import consider, possible, why
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

NOW = 1_795_249_200
RULES = """
domain: d
descriptors:
  - key: team
    value: dba
    rate_limit: {unit: hour, requests_per_unit: 1}
    descriptors:
      - {key: model, value: x, rate_limit: {unit: hour, requests_per_unit: 2}}
  - key: team
    value: d*
    rate_limit: {unit: hour, requests_per_unit: 3}
  - key: team
    value: "*a"
    rate_limit: {unit: hour, requests_per_unit: 4}
  - key: team
    rate_limits:
      - {unit: hour, requests_per_unit: 5}
      - {unit: day, requests_per_unit: 50}
    descriptors:
      - {key: model, rate_limit: {unit: hour, requests_per_unit: 6}}
  - key: user
    descriptors:
      - {key: team, rate_limit: {unit: hour, requests_per_unit: 7}}
"""
DOMAIN = RuleTree(load([read("rules.yaml", RULES)]).domains).domains["d"]


def entries(text: str) -> tuple[Entry, ...]:
    return tuple([Entry(*[part.encode() for part in pair.split("=")]) for pair in text.split(",")])


def reasons(text: str) -> list[tuple[str, bool, str]]:
    found = consider(DOMAIN, entries(text))
    return [(each.rule, each.wins, each.reason) for each in found.candidates]


DBA_LOSES = ("d.team_dba", False, "it is for the value dba")
COMES_FIRST = "a rule for this value comes first"
DEFAULT_LOSES = ("d.team", False, "a rule for this value, or a pattern that matches it, comes first")


@pytest.mark.parametrize(
    "descriptor, expected",
    [
        (
            "team=dba",
            [
                ("d.team_dba", True, "it is for this value"),
                ("d.team_d*", False, COMES_FIRST),
                ("d.team_*a", False, COMES_FIRST),
                DEFAULT_LOSES,
                ("d.team_dba.model_x", False, "it needs an entry model as well"),
            ],
        ),
        (
            "team=data",
            [
                ("d.team_d*", True, "its pattern d* matches the value"),
                DBA_LOSES,
                ("d.team_*a", False, "a pattern before it in the file matches"),
                DEFAULT_LOSES,
            ],
        ),
        (
            "team=web",
            [
                ("d.team", True, "it is for any value of team"),
                DBA_LOSES,
                ("d.team_d*", False, "its pattern d* does not match the value"),
                ("d.team_*a", False, "its pattern *a does not match the value"),
                ("d.team.model", False, "it needs an entry model as well"),
            ],
        ),
        (
            "team=dba,model=y",  # the lookup does not go back to team.model
            [
                ("d.team_d*", False, COMES_FIRST),
                ("d.team_*a", False, COMES_FIRST),
                DEFAULT_LOSES,
                ("d.team_dba.model_x", False, "it is for the value x"),
                ("d.team_dba", False, "the descriptor goes on with model"),
            ],
        ),
        (
            "user=u",
            [
                (
                    "d.user",
                    False,
                    "it has no limit of its own: a descriptor needs an entry of its children",
                ),
                ("d.user.team", False, "it needs an entry team as well"),
            ],
        ),
        ("other=x", []),
    ],
)
def test_every_rule_that_does_not_apply_has_a_reason(
    descriptor: str, expected: list[tuple[str, bool, str]]
) -> None:
    assert expected == reasons(descriptor)


KEYS = st.sampled_from([b"team", b"model", b"user", b"x"])
VALUES = st.sampled_from([b"dba", b"data", b"a", b"x", b"", b"d*", b"\xff"])


@given(found=st.lists(st.builds(Entry, KEYS, VALUES), max_size=3).map(tuple))
def test_the_winner_is_that_of_the_lookup(found: tuple[Entry, ...]) -> None:
    """No other rule wins."""
    considered = consider(DOMAIN, found)
    match = DOMAIN.match(found)
    assert (match.rule if match is not None else None) is considered.winner
    assert (match is not None) == (1 == sum(each.wins for each in considered.candidates))


def test_thousands_of_rules_are_counted_and_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_candidates, "_MOST_LOOKED_AT", 200)
    rules = "domain: d\ndescriptors:\n" + "".join(
        [
            f"  - {{key: k, value: v{n}, rate_limit: {{unit: hour, requests_per_unit: 1}}}}\n"
            for n in range(500)
        ]
    )
    domain = RuleTree(load([read("rules.yaml", rules)]).domains).domains["d"]
    considered = consider(domain, entries("k=v499"))
    assert (True, "d.k_v499") == (considered.candidates[0].wins, considered.candidates[0].rule)
    assert 500 == len(considered.candidates) + considered.left_out
    assert possible(domain, ()).more


@pytest.mark.parametrize(
    "descriptor, expected",
    [
        ("team=dba", [("d.team_dba.model_x", [b"model"]), ("d.user.team", [b"user"])]),
        ("team=web", [("d.team.model", [b"model"]), ("d.user.team", [b"user"])]),
        ("model=x", [("d.team_dba.model_x", [b"team"]), ("d.team.model", [b"team"])]),
        ("user=u", [("d.user.team", [b"team"])]),
        ("team=web,model=x", []),
        ("other=x", []),
    ],
)
def test_an_incomplete_descriptor_names_the_rules_that_could_apply(
    descriptor: str, expected: list[tuple[str, list[bytes]]]
) -> None:
    """The keys that it lacks are named too."""
    found = possible(DOMAIN, entries(descriptor))
    assert (expected, False) == ([(str(e.rule.path), list(e.missing)) for e in found.rules], found.more)


def test_without_an_entry_every_rule_could_apply() -> None:
    assert len(DOMAIN.rules) == len(possible(DOMAIN, ()).rules)


def amended(*amendments: Amendment, descriptor: str = "team=web") -> list[tuple[str, bool, str]]:
    index = Amendments()
    for each in amendments:
        index.put(each)
    match = DOMAIN.match(entries(descriptor))
    stack = index.find("d", entries(descriptor))
    bucket = bucket_now(match.rule, "{d|team=web}", stack, NOW) if match is not None else None
    return [(each.amendment.target.text, each.holds, each.reason) for each in why(stack, bucket, NOW)]


def over(target: str, amount: int, until: int = 0, window: str = "") -> Amendment:
    return override(
        parse("d", target), amount, window=window, until=until, since=NOW - 100, author="a", reason="r"
    )


def test_every_amendment_that_does_not_apply_has_a_reason() -> None:
    more = top_up(parse("d", "team=web"), 5, "key", since=NOW - 100, author="a", reason="r")
    assert [
        ("team=web", False, "it has ended"),
        ("team=w*", True, "it holds"),
        ("*", False, "a more specific override comes first"),
        ("team=web", True, "it holds"),
    ] == amended(over("team=web", 1, NOW - 1), over("*", 9), over("team=w*", 2), more)
    assert [
        ("team=web", False, "the rule has no window week"),
        ("*", True, "it holds"),
        ("team=web", False, "nothing is added to a block"),
    ] == amended(over("*", 0), over("team=web", 1, window="week"), more)


def test_without_a_limit_only_a_block_holds() -> None:
    assert [("*", True, "it blocks")] == amended(over("*", 0), descriptor="other=x")
    assert [("*", False, "no rule has a limit to amend")] == amended(over("*", 5), descriptor="other=x")
