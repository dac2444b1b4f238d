"""BUDGET_DOMAINS, from the environment to the rules in force."""

from __future__ import annotations

from pathlib import Path

from ratelimit_service.app import App
from ratelimit_service.settings.table import load_settings

UPSTREAM = """
domain: token-budgets
descriptors:
  - key: team
    rate_limit: {unit: hour, requests_per_unit: 5000}
"""


async def budgets(config: Path, domains: str) -> list[bool]:
    """Return whether each rule in force is a budget."""
    settings = load_settings(
        {"CONFIG_PATH": str(config), "BACKEND_TYPE": "memory", "BUDGET_DOMAINS": domains}
    )
    app = App(settings)
    assert await app.rulebook.load()
    assert app.service.tree is not None
    return [rule.budget for rule in app.service.tree.rules]


async def test_listed_domains_have_budgets(tmp_path: Path) -> None:
    """The rules of other domains keep their meaning, so both images can use one file."""
    config = tmp_path / "rules.yaml"
    config.write_text(UPSTREAM)
    assert [True] == await budgets(config, "another, token-budgets")
    assert [False] == await budgets(config, "another")
    assert [False] == await budgets(config, "")
