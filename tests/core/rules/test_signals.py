"""The keys `signal` and `low_at`."""

from __future__ import annotations

import pytest

from ratelimit_service.core.answers.signals import CALLER, METADATA, UPSTREAM
from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.model import Rule
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

TOKENS = "rate_limit: {unit: day, tokens_per_unit: 5}"
REQUESTS = "rate_limit: {unit: day, requests_per_unit: 5}"


def rule(text: str = "track: true", limit: str = TOKENS, head: str = "") -> Rule:
    rules = f"domain: d\n{head}descriptors:\n  - key: team\n    {limit}\n    {text}\n"
    found = load([read("rules.yaml", rules)]).domains[0].descriptors[0].rule
    assert found is not None
    return found


def test_a_rule_has_no_signal_by_default() -> None:
    """A signal shows callers the remaining budget."""
    assert (0, 0.0) == (rule().signal, rule().low_at)


@pytest.mark.parametrize(
    "head, text, expected",
    [
        ("", "signal: [metadata]", METADATA),
        ("", "signal: [caller, upstream]", UPSTREAM | CALLER),
        ("", "signal: off", 0),
        ("", 'signal: "off"', 0),
        # a domain says it for all of its budgets, and a rule in place of that
        ("signal: [metadata]\n", "track: true", METADATA),
        ("signal: [metadata]\n", "signal: [caller]", CALLER),
        ("signal: [metadata]\n", "signal: off", 0),
        ("signal: off\n", "track: true", 0),
    ],
)
def test_a_signal_names_its_targets(head: str, text: str, expected: int) -> None:
    """The rule's come first, then the domain's."""
    assert expected == rule(text, head=head).signal


def test_a_domain_s_signal_is_for_its_budgets() -> None:
    """Request limits of the domain have none."""
    assert 0 == rule(limit=REQUESTS, head="signal: [metadata]\n").signal


def test_low_is_where_the_rule_or_its_domain_says() -> None:
    """This includes request limits, because the API and the page show their state."""
    assert 0.9 == rule("low_at: 0.9", head="low_at: 0.5\n").low_at
    assert 0.5 == rule(limit=REQUESTS, head="low_at: 0.5\n").low_at
    assert 1.0 == rule("low_at: 1").low_at


@pytest.mark.parametrize(
    "text, limit, message",
    [
        ("signal: all", TOKENS,
            "must be a list, such as [metadata, upstream, caller], or off, not the text 'all'"),
        ("signal: []", TOKENS, "must have 1 to 3 items, not 0"),
        ("signal: [header]", TOKENS, "has 'header': each item must be metadata, upstream or caller"),
        ("signal: [caller, caller]", TOKENS, "'caller' is in the list already"),
        ("signal: {to: caller}", TOKENS,
            "must be a list, such as [metadata, upstream, caller], or off, not a mapping"),
        ("signal: [caller]", REQUESTS, "is for budgets: give the limit tokens_per_unit, or remove signal"),
        ("low_at: 80%", TOKENS,
            "must be a number above 0 and at most 1, such as 0.8 for 80 %, not the text '80%'"),
        ("low_at: 80", TOKENS, "must be a number above 0 and at most 1, such as 0.8 for 80 %, not 80"),
        ("low_at: 0", TOKENS, "must be a number above 0 and at most 1, such as 0.8 for 80 %, not 0"),
        ("low_at: [0.8]", TOKENS, "must be a number above 0 and at most 1, such as 0.8 for 80 %, not a list"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_error(text: str, limit: str, message: str) -> None:
    """It names the key, and says what would be right."""
    with pytest.raises(InvalidRules) as caught:
        rule(text, limit)
    assert [True] == [message in str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("key, one, other", [("signal", "[caller]", "off"), ("low_at", "0.5", "0.6")])
def test_files_of_one_domain_agree(key: str, one: str, other: str) -> None:
    """The same holds for other settings of a domain."""
    files = [
        f"domain: d\n{key}: {value}\ndescriptors: [{{key: k{place}}}]\n"
        for place, value in enumerate((one, other))
    ]
    with pytest.raises(InvalidRules) as caught:
        load([read(f"{place}.yaml", text) for place, text in enumerate(files)], merge_domains=True)
    said = "set it once, or to the same value in every file of the domain"
    assert [f"1.yaml:2: {key}: differs from 0.yaml:2: {said}"] == [
        str(problem) for problem in caught.value.problems
    ]  # fmt: skip
