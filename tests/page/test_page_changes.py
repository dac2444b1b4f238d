"""Tokens and changes on the page: what is previewed, confirmed and sent, and what is refused."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .browsing import VIEWS, open_with_token
from .fake_api import FakeApi


def test_an_amount_that_is_not_a_whole_number_is_not_sent(page: Page, everything: FakeApi) -> None:
    """1.5 does not become 15."""
    open_with_token(page, f"{everything.url}{VIEWS['bucket']}")
    page.get_by_label("Reason").fill("a test")
    complaint = page.get_by_role("alert").filter(has_text="the amount is a whole number")
    for typed in ("1.5", "1,5", "-1", "0x10", "1e3", "", "12,34", "99999999999999999999"):
        page.get_by_role("textbox", name="Tokens or requests to add").fill(typed)
        page.get_by_role("button", name="Preview").click()
        expect(complaint).to_be_visible()
        page.get_by_label("Reason").fill(f"not {typed}")
        expect(complaint).to_have_count(0)
    assert [] == everything.bodies


def test_a_wrong_token_is_refused_and_can_be_removed(page: Page, everything: FakeApi) -> None:
    """Nothing else changes. The token is kept in this tab only."""
    open_with_token(page, everything.url, "wrong")
    expect(page.get_by_role("alert").filter(has_text="The token is not valid")).to_be_visible()
    assert "wrong" == page.evaluate("sessionStorage.getItem('ratelimit-service token')")
    assert [0, ""] == page.evaluate("[localStorage.length, document.cookie]")
    page.get_by_role("button", name="Token …").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("alert").filter(has_text="token")).to_have_count(0)
    expect(page.locator(".virtual .budget.over")).to_be_visible()
    assert page.evaluate("sessionStorage.getItem('ratelimit-service token')") is None


def test_the_page_asks_for_a_token_if_reads_need_one(page: Page, everything: FakeApi) -> None:
    """With the token, it shows everything."""
    everything.wants_token = True
    page.goto(everything.url)
    expect(page.get_by_role("alert").filter(has_text="A token is needed")).to_be_visible()
    open_with_token(page, everything.url)
    expect(page.locator(".virtual .budget.over")).to_be_visible()


def test_no_change_is_possible_without_the_admin_token(page: Page, everything: FakeApi) -> None:
    """The page names the token that it needs, or reports that the service has none."""
    page.goto(f"{everything.url}{VIEWS['bucket']}")
    expect(page.get_by_text("Changes need the admin token")).to_be_visible()
    assert 0 == page.get_by_role("button", name="Preview").count()
    everything.status = {"writes": False}
    page.reload()
    expect(page.get_by_text("Changes are off.")).to_be_visible()


def test_a_change_is_previewed_and_sent_once(page: Page, everything: FakeApi) -> None:
    """The change has the content of the preview and an idempotency key. It is sent after a confirmation
    only.
    """
    open_with_token(page, f"{everything.url}{VIEWS['bucket']}")
    page.get_by_role("textbox", name="Tokens or requests to add").fill("2,000")
    page.get_by_role("combobox", name="Window").select_option("hour")
    page.get_by_label("Your name").fill("ana")
    page.get_by_label("Reason").fill("launch")
    page.get_by_role("button", name="Preview").click()
    preview = page.get_by_role("region", name="Preview")
    expect(preview).to_contain_text("nothing is changed yet")
    expect(preview).to_contain_text("+2,000, until the window ends")
    wanted = {
        "domain": "token-budgets",
        "descriptor": "team=dba",
        "amount": 2_000,
        "window": "hour",
        "windows": 1,
        "author": "ana",
        "reason": "launch",
    }
    assert [("top-up", {**wanted, "dry_run": True})] == [each[:2] for each in everything.bodies]
    preview.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text("Done.")).to_be_visible()
    (_, _, first), (name, body, key) = everything.bodies
    assert ("top-up", {**wanted, "dry_run": False, "confirmation": "yes"}) == (name, body)
    assert key and key != first


def test_a_retry_after_a_lost_answer_has_the_same_key(page: Page, everything: FakeApi) -> None:
    """So it is not a second change."""
    open_with_token(page, f"{everything.url}{VIEWS['bucket']}")
    page.get_by_label("Reset: set the use to 0").check()
    page.get_by_label("Reason").fill("a test")
    page.get_by_role("button", name="Preview").click()
    confirm = page.get_by_role("button", name="Confirm")
    expect(confirm).to_be_visible()
    keys = []

    def lose(route: object, request: object) -> None:
        keys.append(request.headers["idempotency-key"])  # type: ignore[attr-defined]
        route.abort()  # type: ignore[attr-defined]

    page.route("**/api/v1/reset", lose)
    confirm.click()
    expect(page.get_by_role("alert").filter(has_text="The service does not answer")).to_be_visible()
    page.unroute("**/api/v1/reset")
    confirm.click()
    expect(page.get_by_text("Done.")).to_be_visible()
    assert keys == [everything.bodies[-1][2]]


def test_the_kill_switch_requires_a_preview(page: Page, everything: FakeApi) -> None:
    """From the rules of a domain: an override of 0 for `*`, with the affected buckets and the confirmation of
    the preview.
    """
    open_with_token(page, f"{everything.url}{VIEWS['service']}")
    page.get_by_role("link", name="Block the whole domain …").click()
    expect(page.get_by_text("0 blocks:")).to_be_visible()
    assert ["until it is removed", "until a date and time"] == page.get_by_label("How long").locator(
        "option"
    ).all_inner_texts()
    page.get_by_label("Reason").fill("incident 7")
    page.get_by_role("button", name="Preview").click()
    preview = page.get_by_role("region", name="Preview")
    expect(preview).to_contain_text("the whole domain token-budgets: blocked, until it is removed")
    expect(preview).to_contain_text(f"It affects {len(everything.budgets)} present buckets")
    preview.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text("Done.")).to_be_visible()
    name, body, _ = everything.bodies[-1]
    assert ("override", "*", 0, "yes") == (name, body["descriptor"], body["amount"], body["confirmation"])


def test_a_preview_notes_what_has_no_effect(page: Page, everything: FakeApi) -> None:
    """A misspelt pattern would otherwise look as if it were in force. It can be confirmed all the same."""
    everything.notes = ["no rule in force limits descriptors like tem=<b>*</b>\u202e"]
    open_with_token(page, f"{everything.url}{VIEWS['change']}")
    page.get_by_label("Override: set the limit").check()
    page.get_by_role("textbox", name="Pattern").fill("tem=*")
    page.get_by_label("Limit", exact=True).fill("5")
    page.get_by_label("Reason").fill("a test")
    page.get_by_role("button", name="Preview").click()
    preview = page.get_by_role("region", name="Preview")
    expect(preview).to_contain_text("Note: no rule in force limits descriptors like tem=<b>*</b>\\u202e")
    preview.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text("Done.")).to_be_visible()


def test_an_amendment_can_be_removed(page: Page, everything: FakeApi) -> None:
    """With a reason for the audit."""
    open_with_token(page, f"{everything.url}{VIEWS['changes']}")
    page.get_by_role("button", name='Remove "+2,000" of team=dba').click()
    page.get_by_label("Reason of the removal").fill("enough")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("form", name="Remove an amendment")).to_have_count(0)
    name, body, key = everything.bodies[-1]
    assert ("remove", "t-1", "enough", "yes") == (name, body["id"], body["reason"], body["confirmation"])
    assert key
