"""The page by keyboard and with screen readers (axe), and without requests to other hosts."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from .browsing import VIEWS, open_with_token
from .fake_api import FakeApi


def test_the_page_works_without_a_mouse(page: Page, everything: FakeApi) -> None:
    """From the skip link to a bucket and its form."""
    page.goto(everything.url)
    expect(page.locator(".virtual .budget.over")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Budgets")).to_be_focused()
    for _ in range(6):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="team=stopped")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="team=stopped")).to_be_focused()


def test_what_is_over_its_limit_is_red(page: Page, everything: FakeApi) -> None:
    """As the browser computes the colours, light and dark. What is not over is of another colour."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{everything.url}#/budgets")
        expect(page.locator(".virtual .budget.ok").first).to_be_visible()
        for state, red in (("over", True), ("low", False), ("ok", False)):
            budget = page.locator(f".virtual .budget.{state}").first
            shown = {
                "state in words": (budget.locator(".state"), "backgroundColor"),
                "bar": (budget.locator(f".bar.{state} .used").first, "backgroundColor"),
                "edge": (budget, "borderInlineStartColor"),
            }
            for part, (place, style) in shown.items():
                text = place.evaluate("(each, style) => getComputedStyle(each)[style]", style)
                levels = [int(level) for level in re.findall(r"\d+", text)]
                assert red == (levels[0] > 1.5 * max(levels[1:3])), (scheme, state, part, text)


@pytest.mark.parametrize(
    "scheme, width, rules",
    [
        ("light", 1_200, None),
        ("light", 360, ["target-size", "scrollable-region-focusable"]),
        ("dark", 1_200, ["color-contrast"]),
    ],
)
def test_axe_finds_no_violation_in_any_view(
    browser: Browser, everything: FakeApi, scheme: str, width: int, rules: list[str] | None
) -> None:
    """Including the dialog and a preview. Nothing is wider than the window.

    All rules run once; those about colours and widths run with other themes and sizes, too.
    """
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    try:
        page = context.new_page()
        open_with_token(page, everything.url)
        for name, view in VIEWS.items():
            page.goto(f"{everything.url}{view}")
            expect(page.locator("main h1")).to_be_visible()
            expect(page.get_by_text("Reading")).to_have_count(0)
            check(page, name, rules)
        page.get_by_label("Override: set the limit").check()
        page.get_by_label("the whole domain").check()
        page.get_by_label("Limit", exact=True).fill("0")
        page.get_by_label("How long").select_option("until it is removed")
        page.get_by_label("Reason").fill("a test")
        page.get_by_role("button", name="Preview").click()
        expect(page.get_by_role("region", name="Preview")).to_be_visible()
        check(page, "preview", rules)
        page.get_by_role("button", name="Token …").click()
        check(page, "dialog", rules)
    finally:
        context.close()


def check(page: Page, name: str, rules: list[str] | None) -> None:
    """Fail with the violations that axe finds, by all rules or by the given ones."""
    found = Axe().run(page, options={"runOnly": rules} if rules else None)
    assert 0 == found.violations_count, f"{name}: {found.generate_report()}"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        f"{name} is wider than the window"
    )


def test_the_page_loads_nothing_from_other_hosts(context: BrowserContext, everything: FakeApi) -> None:
    """Every request goes to the port of the page. A script that is injected into the document does not
    run.
    """
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for view in VIEWS.values():
        page.goto(f"{everything.url}{view}")
        expect(page.locator("main h1")).to_be_visible()
    assert asked and all(each.startswith(everything.url) for each in asked)
    other = context.browser.new_context() if context.browser else None
    assert other is not None
    try:
        victim = other.new_page()
        victim.goto(everything.url)
        expect(victim.locator("main h1")).to_be_visible()
        refused = victim.evaluate(
            """async () => {
                const tried = [];
                const script = document.createElement("script");
                try {
                    script.text = "window.owned = true";
                    document.head.append(script);
                } catch { tried.push("script"); }
                try {
                    document.body.innerHTML = "<img src=x onerror='window.owned = true'>";
                } catch { tried.push("markup"); }
                try { await fetch("http://127.0.0.1:9/"); } catch { tried.push("fetch"); }
                await new Promise((done) => setTimeout(() => {
                    try { new Function("window.owned = true")(); } catch { tried.push("eval"); }
                    done();
                }));
                return [tried, window.owned === undefined];
            }"""
        )
        assert [["script", "markup", "fetch", "eval"], True] == refused
    finally:
        other.close()
