"""A hash of rules, by which replicas can be compared."""

from __future__ import annotations

import pytest

from ratelimit_service.core.rules.digest import digest_of, with_digest
from ratelimit_service.core.rules.document import Contents
from ratelimit_service.loading.task import load_rules
from ratelimit_service.sources.yaml_text import read

RULES = """
domain: d
descriptors:
  - key: team
    value: dba
    rate_limit: {unit: hour, requests_per_unit: 5, name: x, replaces: [{name: b}, {name: a}]}
    descriptors:
      - {key: model, rate_limit: {unit: day, requests_per_unit: 3}}
  - key: team
    shadow_mode: true
    rate_limit: {unit: hour, requests_per_unit: 5}
"""


def digest(rules: str = RULES, file: str = "rules.yaml") -> str:
    loaded = load_rules(Contents([read(file, rules)]), merge_domains=False)
    return digest_of(loaded.domains)


def test_files_lines_and_comments_are_no_part_of_it() -> None:
    assert digest() == digest("# a comment\n" + RULES, "/elsewhere/rules.yaml")
    assert 64 == len(digest())


@pytest.mark.parametrize(
    "before, after",
    [
        ("requests_per_unit: 3", "requests_per_unit: 4"),
        ("unit: day", "unit: week"),
        ("value: dba", "value: dbb"),
        ("shadow_mode: true", "shadow_mode: false"),
        ("name: x", "name: y"),
        ("{name: a}", "{name: c}"),
        ("domain: d", "domain: e"),
        ("domain: d", "domain: d\nunmatched: deny"),
        ("key: model", "key: models"),
        ("      - {key: model", "  - {key: model"),
    ],
)
def test_every_change_of_the_rules_changes_the_digest(before: str, after: str) -> None:
    assert before in RULES
    assert digest() != digest(RULES.replace(before, after, 1))


def test_the_order_of_domains_does_not_change_the_digest() -> None:
    loaded = [
        with_digest(load_rules(Contents([read("r", f"domain: {name}")]), merge_domains=False).domains[0])
        for name in ("a", "b")
    ]
    assert digest_of(loaded) == digest_of(loaded[::-1])
