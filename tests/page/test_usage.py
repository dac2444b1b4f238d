"""The view of usage in a real browser: the entries of ledgers, summed by one key."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from .answers import HOSTILE, book, spent
from .fake_api import FakeApi, Refused

VIEW = "#/usage?domain=token-budgets&from=2026-10-24&to=2026-11-30"


def table(page: Page) -> list[list[str]]:
    """Return the rows of the table of usage."""
    region = page.get_by_role("region", name="Tokens by", exact=False).first
    return [row.locator("th, td").all_inner_texts() for row in region.locator("tbody tr").all()]


def saved(page: Page, tmp_path: Path) -> list[list[str]]:
    """Return the lines of the file that the button saves."""
    with page.expect_download() as found:
        page.get_by_role("button", name="Save as CSV").click()
    file = tmp_path / found.value.suggested_filename
    found.value.save_as(file)
    assert "usage-token-budgets-2026-10-24-2026-11-30.csv" == file.name
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.reader(opened))


def test_usage_is_a_chart_a_table_and_a_file(page: Page, fake_api: FakeApi, tmp_path: Path) -> None:
    """Days are those of the browser's time zone, including one of 25 hours. An entry that is on two pages
    counts once.
    """
    fake_api.book_pages = 2
    fake_api.books = [
        book(
            [["team", "dba"]],
            spent("2026-10-24T22:00:00Z", 1_000_000, price="2.50"),
            spent("2026-10-25T22:00:00Z", 500_001, 1, 3, price="2.50"),
            spent("2026-10-25T23:00:00Z", 9_007_199_254_740_993, price="2"),
            currency="EUR",
        ),
        book([["team", "=cmd"]], spent("2026-11-21T01:00:00Z", 7)),
        book([["team", "dba"], ["user", "ana"]], spent("2026-11-21T01:00:00Z", 5)),
    ]
    page.goto(f"{fake_api.url}{VIEW}")
    expect(
        page.get_by_role("img", name="Tokens by team from 2026-10-25 00:00 to 2026-11-22 00:00")
    ).to_be_visible()
    assert [
        ["dba", "9,007,199,256,240,994", "1", "3", "18,014,398,513.23 EUR"],
        ["=cmd", "7", "0", "0", "–"],
    ] == table(page)
    head, *lines = saved(page, tmp_path)
    assert ["start", "end", "team", "keys", "charged", "refunded", "refused", "amount", "currency"] == head
    assert [
        [
            "2026-10-25T00:00:00+02:00",
            "2026-10-26T00:00:00+01:00",
            "dba",
            "team",
            "1500001",
            "1",
            "3",
            "3.75",
            "EUR",
        ],
        [
            "2026-10-26T00:00:00+01:00",
            "2026-10-27T00:00:00+01:00",
            "dba",
            "team",
            "9007199254740993",
            "0",
            "0",
            "18014398509.481986",
            "EUR",
        ],
        ["2026-11-21T00:00:00+01:00", "2026-11-22T00:00:00+01:00", "'=cmd", "team", "7", "0", "0", "", ""],
    ] == lines
    page.get_by_role("combobox", name="By").select_option(label="user (of team, user)")
    expect(page.get_by_role("region", name="Tokens by user").locator("tbody tr")).to_have_count(1)
    assert [["ana", "5", "0", "0"]] == table(page)
    page.get_by_role("combobox", name="Each").select_option("Month")
    page.get_by_role("button", name="As a table").click()
    expect(page.get_by_role("region", name="Tokens by user, as a table")).to_contain_text("2026-11-01 00:00")
    page.reload()
    expect(page.get_by_role("region", name="Tokens by user").locator("tbody tr")).to_have_count(1)


def test_hostile_values_are_text_in_the_chart_and_the_file(
    page: Page, fake_api: FakeApi, tmp_path: Path
) -> None:
    """None becomes markup or a formula, or is wider than the page. Small values share one part of the
    bars.
    """
    fake_api.books = [
        book([["team", value]], spent("2026-11-21T01:00:00Z", 100 + place))
        for place, (value, _) in enumerate(HOSTILE.values())
    ]
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{fake_api.url}{VIEW}")
    expect(page.get_by_role("listitem").filter(has_text="all others")).to_be_visible()
    assert len(HOSTILE) == len(table(page))
    assert [0, 0] == [page.locator(f"main {tag}").count() for tag in ("script", "img")]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    _, *lines = saved(page, tmp_path)
    assert len(HOSTILE) == len(lines)
    assert [] == [line[2] for line in lines if line[2][:1] in ("=", "+", "-", "@")]
    page.get_by_role("button", name="As a table").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_changes_of_limits_are_listed_below_usage(page: Page, fake_api: FakeApi) -> None:
    """Those in the period. For a domain without a ledger, the view explains how to enable one."""
    fake_api.audit = [
        {
            "action": "remove",
            "id": "o-1",
            "domain": "token-budgets",
            "descriptor": "team=dba",
            "window": None,
            "before": None,
            "after": None,
            "counters": [],
            "version": 1,
            "at": "2026-11-21T10:00:00Z",
            "author": "ana",
            "reason": "launch",
            "key": "k",
        }
    ]
    page.goto(f"{fake_api.url}{VIEW}")
    expect(page.get_by_text("No ledger has entries of this domain in this time.")).to_be_visible()
    expect(page.get_by_role("region", name="Audit")).to_contain_text("launch")


@pytest.mark.parametrize("days", ["from=2026-11-30&to=2026-11-01", "from=soon&to=2026-11-01"])
def test_an_invalid_time_is_refused(page: Page, fake_api: FakeApi, days: str) -> None:
    """No request is sent."""
    page.goto(f"{fake_api.url}#/usage?domain=token-budgets&{days}")
    expect(page.get_by_text("The last day must not be before the first one.")).to_be_visible()
    assert 0 == fake_api.calls["usage"]


def test_a_failure_is_reported(page: Page, fake_api: FakeApi) -> None:
    """It does not look like an empty ledger."""
    fake_api.broken = Refused(503, "The store does not answer")
    page.goto(f"{fake_api.url}{VIEW}")
    expect(page.get_by_role("alert").filter(has_text="The store does not answer").first).to_be_visible()
    expect(page.get_by_text("No ledger has entries")).to_have_count(0)


def test_a_refresh_that_fails_midway_keeps_the_previous_result(page: Page, fake_api: FakeApi) -> None:
    """Its first page is neither shown nor saved. The next refresh shows the complete result."""
    fake_api.book_pages = 2
    fake_api.books = [book([["team", "dba"]], spent("2026-11-21T01:00:00Z", 7))]
    page.goto(f"{fake_api.url}{VIEW}")
    region = page.get_by_role("region", name="Tokens by team")
    expect(region.locator("tbody tr")).to_have_count(1)
    fake_api.books = [book([["team", "part"]], spent("2026-11-21T01:00:00Z", 9))]
    fake_api.usage_broken = Refused(503, "The store does not answer")
    page.evaluate("window.dispatchEvent(new Event('refresh'))")
    expect(page.get_by_role("alert").filter(has_text="The store does not answer").first).to_be_visible()
    assert [["dba", "7", "0", "0"]] == table(page)
    fake_api.usage_broken = None
    page.evaluate("window.dispatchEvent(new Event('refresh'))")
    expect(region).to_contain_text("part")
    assert [["part", "9", "0", "0"]] == table(page)


def test_a_result_that_is_older_than_the_shown_one_is_dropped(page: Page, fake_api: FakeApi) -> None:
    """The first read is paused at its second page until the refresh has shown its own result."""
    fake_api.book_pages = 2
    fake_api.books = [book([["team", "old"]], spent("2026-11-21T01:00:00Z", 7))]
    held: list[Route] = []

    def hold(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/usage?*cursor=1*", hold)
    with page.expect_request("**/usage?*cursor=1*"):
        page.goto(f"{fake_api.url}{VIEW}")
    fake_api.books = [book([["team", "new"]], spent("2026-11-21T01:00:00Z", 9))]
    with page.expect_event("requestfailed", lambda request: "cursor=1" in request.url):  # the read is aborted
        page.evaluate("window.dispatchEvent(new Event('refresh'))")
    expect(page.get_by_role("button", name="Save as CSV")).to_be_visible()
    expect(page.get_by_role("region", name="Tokens by team")).to_contain_text("new")
    assert [["new", "9", "0", "0"]] == table(page)


def test_usage_works_without_a_mouse(page: Page, fake_api: FakeApi, tmp_path: Path) -> None:
    """From the skip link through the form, whose choices are typed, to the file and the first chart."""
    start = "2026-11-21T01:00:00Z"
    fake_api.books = [
        book([["team", "dba"]], spent(start, 7)),
        book([["user", "ana"]], spent(start, 5), spent("2026-11-22T01:00:00Z", 4)),
    ]
    page.goto(f"{fake_api.url}{VIEW}")
    expect(page.get_by_role("button", name="Save as CSV")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Usage")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Domain")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="By")).to_be_focused()
    page.keyboard.type("user")
    expect(page.get_by_role("img", name="Tokens by user", exact=False)).to_be_visible()
    assert [["ana", "9", "0", "0"]] == table(page)
    tab_to(page, "Each")
    page.keyboard.type("Month")
    expect(page).to_have_url(re.compile("per=month"))
    with page.expect_download() as found:
        tab_to(page, "Save as CSV")
        page.keyboard.press("Enter")
    found.value.save_as(tmp_path / "usage.csv")
    with (tmp_path / "usage.csv").open(newline="", encoding="utf-8") as file:
        (_, line) = csv.reader(file)
    assert ["ana", "user", "9"] == line[2:5]


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the choice or button of this name has the focus; the fields of a date have several
    stops.
    """
    target = page.get_by_role("combobox", name=name).or_(page.get_by_role("button", name=name))
    for _ in range(20):
        page.keyboard.press("Tab")
        if target.evaluate("each => each === document.activeElement"):
            return
    raise AssertionError(f"{name} cannot be reached by Tab")
