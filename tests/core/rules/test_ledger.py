"""The key `ledger`."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.ledger.rule import LedgerRule
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

LIMIT = "rate_limit: {unit: day, tokens_per_unit: 5}"


def ledger(text: str, limit: str = LIMIT, head: str = "") -> LedgerRule | None:
    rules = f"domain: d\n{head}descriptors:\n  - key: team\n    {limit}\n    {text}\n"
    rule = load([read("rules.yaml", rules)]).domains[0].descriptors[0].rule
    assert rule is not None
    return rule.ledger


def test_a_rule_has_no_ledger_by_default() -> None:
    """A ledger takes memory in the store."""
    assert ledger("track: true") is None


def test_a_ledger_has_defaults() -> None:
    """It keeps 400 days by the hour, in the time zone of the file."""
    assert LedgerRule(400 * 86_400, "hour", "UTC") == ledger("ledger: {}")
    assert LedgerRule(31 * 86_400, "day", "Asia/Kolkata") == ledger(
        "ledger: {keep: 31d, by: day}", head="time_zone: Asia/Kolkata\n"
    )


@pytest.mark.parametrize(
    "text, limit, message",
    [
        ("ledger: {keep: 0d}", LIMIT, "must be 1d to 3660d"),
        ("ledger: {keep: 3661d}", LIMIT, "must be 1d to 3660d"),
        ("ledger: {keep: 400}", LIMIT, "must be 1d to 3660d"),
        ("ledger: {by: week}", LIMIT, "by"),
        ("ledger: {for: 1d}", LIMIT, "for"),
        ("ledger: 400d", LIMIT, "ledger"),
        ("keep: 400d", LIMIT, "in ledger"),
        ("ledger: {}", "rate_limit: {unit: day, requests_per_unit: 5}", "is for budgets"),
        ("ledger: {}", "rate_limit: {unit: second, tokens_per_unit: 5}", "a minute or longer"),
    ],
)
def test_a_mistake_in_a_ledger_is_an_error(text: str, limit: str, message: str) -> None:
    """It names the key, and says what would be right."""
    with pytest.raises(InvalidRules) as caught:
        ledger(text, limit)
    assert [True] == [message in str(problem) for problem in caught.value.problems]
