"""Steps of a person on the page, in a real browser."""

from __future__ import annotations

from playwright.sync_api import Page

from .fake_api import TOKEN

VIEWS = {
    "budgets": "#/budgets",
    "bucket": "#/bucket?domain=token-budgets&descriptor=team%3Ddba",
    "refusals": "#/refusals",
    "explain": "#/explain?domain=token-budgets&descriptor=team%3Ddba",
    "usage": "#/usage?domain=token-budgets&from=2026-10-24&to=2026-11-30",
    "changes": "#/changes",
    "service": "#/service",
    "change": "#/change?domain=token-budgets",
}


def rows(page: Page) -> list[str]:
    """Return the names of the buckets in the list, from the top."""
    return page.locator(".virtual .budget h3").all_inner_texts()


def look_again(page: Page) -> None:
    """Let the page send its next requests at once."""
    page.evaluate("window.dispatchEvent(new Event('refresh'))")


def open_with_token(page: Page, url: str, token: str = TOKEN) -> None:
    """Open the page, and type a token."""
    page.goto(url)
    page.get_by_role("button", name="Token …").click()
    page.get_by_role("textbox", name="Token", exact=True).fill(token)
    page.get_by_role("button", name="Use it").click()
