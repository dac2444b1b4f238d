"""The receivers of events of amendments, by the rules whose limits change."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.document import Document
from ratelimit_service.core.rules.reader import load
from ratelimit_service.events import recipients as module
from ratelimit_service.events.recipients import recipients
from ratelimit_service.sources.yaml_text import read

RULES = """\
domain: d
notify: [ops]
descriptors:
  - key: team
    value: dba
    notify: [finance]
    rate_limit: {unit: day, tokens_per_unit: 1}
    descriptors:
      - {key: model, value: large, notify: [models], rate_limit: {unit: day, tokens_per_unit: 1}}
  - {key: team, value: "ml-*", notify: off, rate_limit: {unit: day, tokens_per_unit: 1}}
  - {key: team, rate_limit: {unit: day, tokens_per_unit: 1}}
  - key: path
    value: "/api/*"
    share_threshold: true
    notify: [web]
    rate_limit: {unit: day, tokens_per_unit: 1}
"""
ANYBODY = """\
domain: open
descriptors:
  - {key: team, value: dba, notify: [finance], rate_limit: {unit: day, tokens_per_unit: 1}}
  - {key: team, rate_limit: {unit: day, tokens_per_unit: 1}}
"""


def documents() -> list[Document]:
    return [read(name, text.encode()) for name, text in (("d", RULES), ("open", ANYBODY))]


@pytest.mark.parametrize(
    "domain, target, names",
    [
        # One descriptor: its rule.
        ("d", "team=dba", ("finance",)),
        ("d", "team=other", ("ops",)),
        ("d", "team=ml-1", ()),
        ("d", "team=dba,model=large", ("models",)),
        (r"d", r"path=/api/\*", ("web",)),
        # A pattern: all rules that it may match.
        ("d", "team=d*", ("finance", "ops")),
        ("d", "team=ml-*", ("ops",)),
        ("d", "team=x*", ("ops",)),
        ("d", "team=*,model=l*", ("models",)),
        ("d", "path=/api/v1*", ("web",)),
        # A domain: all of its rules.
        ("d", "*", ("finance", "models", "ops", "web")),
        # A rule without notify, no rule, and no domain: all receivers.
        ("open", "team=dba", ("finance",)),
        ("open", "team=x", None),
        ("open", "*", None),
        ("d", "user=x", None),
        ("d", "user=*", None),
        ("gone", "team=dba", None),
    ],
)
async def test_the_rules_that_an_amendment_changes_choose_the_receivers(
    domain: str, target: str, names: tuple[str, ...] | None
) -> None:
    rules = RuleTree(load(documents()).domains)
    assert names == await recipients(rules, parse(domain, target))


async def test_without_rules_all_receivers_get_it() -> None:
    assert None is await recipients(None, parse("d", "team=dba"))


async def test_other_tasks_run_between_many_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain may have a hundred thousand rules."""
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await recipients(RuleTree(load(documents()).domains), parse("d", "*"))
    task.cancel()
    assert turns >= 2
