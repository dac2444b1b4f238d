"""The view of the service: its rules."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .answers import rule
from .fake_api import FakeApi


def test_the_rules_in_force_are_listed_by_domain(page: Page, fake_api: FakeApi) -> None:
    """Each with its limits, its kind and its name, and each domain with what it does to other requests."""
    fake_api.rules = [
        rule("token-budgets.team_dba", ("hour", 5_000), ("day", 50_000), name="dba-hourly"),
        rule("token-budgets.user", ("15minute", 60), kind="requests", shadow=True),
        rule("token-budgets.batch", unlimited=True),
        rule("token-budgets.<b>path</b>_\u202e", ("month", 9_007_199_254_740_991)),
    ]
    page.goto(f"{fake_api.url}#/service")
    table = page.get_by_role("region", name="Rules of token-budgets")
    expect(table.locator("tbody tr")).to_have_count(4)
    assert [
        ["token-budgets.team_dba", "5,000 / hour, 50,000 / day", "dba-hourly"],
        ["token-budgets.user", "60 / 15minute (requests) trial", ""],
        ["token-budgets.batch", "unlimited", ""],
        ["token-budgets.<b>path</b>_\\u202e", "9,007,199,254,740,991 / month", ""],
    ] == [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    rules = page.get_by_role("region", name="Rules", exact=True)
    expect(rules).to_contain_text("Generation 3")
    expect(rules).to_contain_text(
        "A request with a descriptor that no rule matches is refused, and so is one without team."
    )
    expect(rules).to_contain_text("The last load had no errors.")
    fake_api.rules = [rule(f"token-budgets.team_{number}", ("hour", number)) for number in range(3)]
    page.reload()
    expect(table.locator("tbody tr")).to_have_count(3)
    fake_api.domains = []
    page.reload()
    expect(rules).to_contain_text("No rules are loaded: nothing is limited.")
