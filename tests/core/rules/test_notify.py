"""The key `notify`; its mistakes are in the corpus (bad/notify.yaml)."""

from __future__ import annotations

import pytest

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, Entry, Override, Request, Unit
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

Names = tuple[str, ...] | None


def tree(head: str, text: str) -> RuleTree:
    limit = "rate_limit: {unit: day, tokens_per_unit: 5}"
    rules = f"domain: d\n{head}descriptors:\n  - key: team\n    {limit}\n    {text}\n"
    return RuleTree(load([read("rules.yaml", rules)]).domains)


@pytest.mark.parametrize(
    "head, text, expected",
    [
        ("", "track: true", None),
        ("", "notify: [b, a]", ("b", "a")),
        ("", "notify: off", ()),
        ("notify: [platform]\n", "track: true", ("platform",)),
        ("notify: [platform]\n", "notify: [a]", ("a",)),
        ("notify: [platform]\n", "notify: off", ()),
    ],
)
def test_a_rule_names_its_receivers_or_its_domain_does(head: str, text: str, expected: Names) -> None:
    """None means every receiver, and `off` means no receiver."""
    (rule,) = tree(head, text).rules
    assert expected == rule.notify


def test_a_limit_in_the_request_keeps_them() -> None:
    """Its events go to the receivers of the rule."""
    planner = Planner(tree("", "notify: [a]"), Policy(), lambda: 0)
    request = Request("d", (Descriptor((Entry(b"team", b"x"),), 0, Override(9, Unit.DAY)),))
    (planned,) = planner.plan(request, 0).descriptors
    assert planned.rule is not None
    assert ("a",) == planned.rule.notify
