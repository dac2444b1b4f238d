"""The page in a real browser, over answers that the tests set."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from testing.waiting import wait_for

from .answers import HOSTILE, budget, control_plane, moment, refusal, window
from .browsing import VIEWS, look_again, open_with_token, rows
from .fake_api import FakeApi, Refused


def test_buckets_that_need_attention_are_listed_first(page: Page, everything: FakeApi) -> None:
    """Blocked, over, low, and then the others. The state is shown in words, too."""
    page.goto(everything.url)
    expect(page.locator(".virtual h2").first).to_have_text("Blocked")
    assert ["team=stopped", "team=dba", "team=more", "team=support"] == rows(page)[:4]
    assert ["Blocked", "Over the limit", "Running low", "Running low"] == page.locator(
        ".virtual .state"
    ).all_inner_texts()[:4]
    dba = page.locator(".virtual .budget.over")
    assert "5,774 of 5,000 (115%)" in dba.inner_text().replace("\u202f", "").replace("\u00a0", "").replace(
        " %", "%"
    )
    assert re.search(r"resets in (29 min|30 min)", dba.inner_text())
    low = page.locator(".virtual .budget.low").first.inner_text()
    assert "the rule has 5,000" in low and re.search(r"runs out at \d\d:\d\d", low)
    expect(page.get_by_text("'fortnight' is no unit")).to_be_visible()


def test_hostile_names_are_shown_as_text(page: Page, everything: FakeApi) -> None:
    """No value becomes markup, changes the order of its line, or is wider than the page."""
    page.goto(f"{everything.url}#/budgets?state=ok")
    shown = {text for _, text in HOSTILE.values() if text is not None}
    expect(page.locator(".virtual .budget")).to_have_count(len(HOSTILE) + 1)
    assert shown <= set(rows(page))
    assert [0, 0] == [page.locator(f"main {tag}").count() for tag in ("img", "script")]
    assert [] == page.evaluate(
        "Array.from(document.querySelectorAll('*')).filter((each) => each.onmouseover)"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{everything.url}#/refusals")
    expect(page.locator("tbody tr")).to_have_count(len(HOSTILE))
    assert [0, 0] == [page.locator(f"main {tag}").count() for tag in ("img", "script")]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("value", ["markup", "bidi", "no-utf-8", "long"])
def test_the_link_of_a_bucket_with_a_hostile_name_opens_that_bucket(
    page: Page, everything: FakeApi, value: str
) -> None:
    """From the list, and in another tab."""
    text = HOSTILE[value][0]
    wanted = next(each for each in everything.budgets if each["entries"][0][1] == text)
    wanted["descriptor"] = (
        f"team={text}".encode("utf-8", "backslashreplace").decode() if value == "no-utf-8" else f"team={text}"
    )
    page.goto(f"{everything.url}#/budgets?state=ok")
    page.locator(
        ".virtual h3 a >> "
        f"nth={[each['entries'][0][1] for each in everything.budgets if each['state'] == 'ok'].index(text)}"
    ).click()
    expect(page.locator(".card.budget")).to_be_visible()
    page.reload()
    expect(page.locator(".card.budget")).to_be_visible()
    assert page.locator("h1").inner_text().startswith("team=")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_amounts_above_2_to_the_53_keep_their_digits(page: Page, fake_api: FakeApi) -> None:
    """In answers, where JavaScript would round JSON numbers, and in forms."""
    fake_api.budgets = [budget("large", window(9_007_199_254_740_993, 9_223_372_036_854_775_807))]
    open_with_token(page, f"{fake_api.url}#/bucket?domain=token-budgets&descriptor=team%3Dlarge")
    card = page.locator(".card.budget")
    expect(card).to_contain_text("9,007,199,254,740,993 of 9,223,372,036,854,775,807")
    page.get_by_role("textbox", name="Tokens or requests to add").fill("9_007_199_254_740_993")
    page.get_by_label("Reason").fill("a test")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("region", name="Preview")).to_contain_text("+9,007,199,254,740,993")
    assert 9_007_199_254_740_993 == fake_api.bodies[-1][1]["amount"]


def test_held_tokens_are_shown_beside_used_ones(page: Page, fake_api: FakeApi) -> None:
    """For each window. A window without holds does not mention them."""
    held = {**window(40, 2_000), "held": 1_200}
    fake_api.budgets = [budget("dba", held, window(40, 9_000, name="day"))]
    open_with_token(page, f"{fake_api.url}#/bucket?domain=token-budgets&descriptor=team%3Ddba")
    numbers = page.locator(".card.budget .window .numbers")
    expect(numbers.nth(0)).to_contain_text("40 of 2,000 (2 %) 1,200 held")
    expect(numbers.nth(1)).to_contain_text("40 of 9,000")
    expect(numbers.nth(1)).not_to_contain_text("held")


def test_a_list_of_ten_thousand_buckets_can_be_scrolled_to_its_end(page: Page, fake_api: FakeApi) -> None:
    """Only visible rows are in the document, and the focus is kept."""
    fake_api.budgets = [budget(f"team-{number:05}", window(number % 100, 1_000)) for number in range(10_000)]
    page.goto(f"{fake_api.url}#/budgets?sort=name")
    expect(page.get_by_text("10,000 budgets")).to_be_visible()
    page.locator(".virtual h3 a").first.focus()
    most = 0
    frames = page.evaluate(
        """async () => {
            const seen = { most: 0, frames: 0, scripts: 0 };
            while (true) {
                const before = performance.now();
                window.scrollBy(0, 12000);
                window.dispatchEvent(new Event("scroll"));
                await new Promise(requestAnimationFrame);
                seen.frames += 1;
                seen.most = Math.max(seen.most, document.querySelectorAll(".virtual-item").length);
                const last = Array.from(document.querySelectorAll(".virtual-item")).at(-1);
                if (last && last.getAttribute("aria-posinset") === "10000") return seen;
                if (window.scrollY + innerHeight >= document.documentElement.scrollHeight - 5) {
                    await new Promise((done) => setTimeout(done, 5));
                }
            }
        }"""
    )
    most = frames["most"]
    assert most < 60
    expect(page.get_by_text("team-09999")).to_be_visible()
    assert "team=team-00000" == page.evaluate("document.activeElement.innerText")


def test_a_list_whose_cursors_are_not_known_any_more_begins_again(page: Page, fake_api: FakeApi) -> None:
    """The service may come back with another kind of store while the page is open."""
    fake_api.budgets = [budget(f"team-{number:02}", window(number, 1_000)) for number in range(60)]
    page.goto(f"{fake_api.url}#/budgets?sort=name")
    expect(page.get_by_text("team-00")).to_be_visible()

    def scrolled_to_the_end() -> bool:
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        return page.get_by_text("team-59").is_visible()

    wait_for("the end of the list", scrolled_to_the_end)
    fake_api.forgets_cursors = True
    before = fake_api.calls.total()
    look_again(page)
    wait_for("calls", lambda: fake_api.calls.total() > before + 2)
    expect(page.get_by_text("team-59")).to_have_count(0)
    expect(page.get_by_text("team-24")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="not a position")).to_have_count(0)


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=-400)], ids=str)
def test_times_are_right_although_the_clock_of_the_browser_is_wrong(
    page: Page, everything: FakeApi, ahead: timedelta
) -> None:
    """Also those of answers that are old: they are by the clock of the service."""
    page.clock.install(time=datetime.now(UTC) + ahead)
    page.goto(everything.url)
    over = page.locator(".virtual .budget.over")
    expect(over).to_contain_text(re.compile("resets in (29|30) min"))
    expect(page.locator(".virtual .budget.low").first).to_contain_text(re.compile(r"runs out at \d\d:\d\d,"))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    began = datetime.now(UTC)
    everything.broken = Refused(503, "The store does not answer", "it has not answered for 3 s")
    look_again(page)
    stale = page.get_by_role("alert").filter(has_text="What is shown is from").locator("time")
    shown = datetime.fromisoformat(stale.get_attribute("datetime") or "")
    assert abs(shown - began) < timedelta(hours=1)


def test_the_list_can_be_sorted_by_domain_and_key(page: Page, fake_api: FakeApi) -> None:
    """Each domain and key has a heading."""
    fake_api.budgets = [
        budget("al", window(1, 10), key="user", domain="a"),
        budget("bo", window(1, 10), key="user", domain="a"),
        budget("dba", window(1, 10), domain="b"),
    ]
    page.goto(fake_api.url)
    page.get_by_label("Sort").select_option("Domain and key")
    expect(page).to_have_url(f"{fake_api.url}#/budgets?sort=name")
    expect(page.locator(".virtual h2")).to_have_text(["a · user", "b · team"])


def test_the_usage_of_a_bucket_is_shown_over_time(page: Page, everything: FakeApi) -> None:
    """As bars, in words, and as a table."""
    tokens = (400, 0, 1_489)
    everything.points = [
        {"at": moment(2 * (number - len(tokens))), "tokens": each} for number, each in enumerate(tokens, 1)
    ]
    page.goto(f"{everything.url}{VIEWS['bucket']}")
    chart = page.locator("figure")
    expect(chart.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"^Tokens from .*: 1,889 in all, at most 1,489 in 2 s")
    )
    assert 2 == chart.locator("rect").count()
    chart.get_by_role("button", name="As a table").click()
    assert ["400", "1,489"] == chart.locator("tbody td.number").all_inner_texts()


def test_a_search_is_part_of_the_address(page: Page, everything: FakeApi) -> None:
    """The service does the search, and the address opens the same view."""
    page.goto(everything.url)
    page.get_by_label("Value begins with").fill("sup")
    expect(page.locator(".virtual .budget")).to_have_count(1)
    page.get_by_label("State").select_option("Running low")
    expect(page).to_have_url(f"{everything.url}#/budgets?prefix=sup&state=low")
    page.reload()
    expect(page.locator(".virtual .budget")).to_have_count(1)
    assert ["team=support"] == rows(page)
    expect(page.get_by_label("Value begins with")).to_have_value("sup")
    page.get_by_label("State").select_option("Blocked")
    expect(page.get_by_text("No budget matches.")).to_be_visible()


def test_an_empty_installation_is_explained(page: Page, fake_api: FakeApi) -> None:
    """Before it has rules, and before it has had requests."""
    fake_api.domains = []
    page.goto(fake_api.url)
    expect(page.get_by_role("heading", name="No rules are loaded yet")).to_be_visible()
    expect(page.get_by_text("CONFIG_PATH")).to_be_visible()
    fake_api.domains = ["token-budgets"]
    page.reload()
    expect(page.get_by_role("heading", name="Nothing is counted yet")).to_be_visible()
    expect(page.locator("main")).to_contain_text("Rules are in force for token-budgets")


def test_an_incomplete_list_is_reported(page: Page, everything: FakeApi) -> None:
    """With the reason, as text."""
    everything.partial = "looked at 20000 of about 1000000 keys <b>"
    page.goto(everything.url)
    expect(page.get_by_text("This is only a part. looked at 20000 of about 1000000 keys <b>")).to_be_visible()


def test_the_last_data_stays_while_the_service_is_down(page: Page, everything: FakeApi) -> None:
    """It is marked as old, and updated once the service is back."""
    page.goto(everything.url)
    expect(page.locator(".virtual .budget.over")).to_be_visible()
    everything.broken = Refused(503, "The store does not answer", "it has not answered for 3 s")
    look_again(page)
    alert = page.get_by_role("alert").filter(has_text="it has not answered for 3 s")
    expect(alert).to_contain_text("What is shown is from")
    expect(page.locator(".virtual .budget.over")).to_be_visible()
    everything.broken = None
    look_again(page)
    expect(alert).to_have_count(0)
    page.context.set_offline(True)
    look_again(page)
    expect(page.get_by_role("alert").filter(has_text="The service does not answer").first).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_role("alert").filter(has_text="The service does not answer")).to_have_count(0)


def test_a_store_that_does_not_answer_is_reported_in_every_view(page: Page, everything: FakeApi) -> None:
    """At the top."""
    everything.status = {
        "store": {"type": "redis", "reachable": False, "circuit_open": True, "journal_hits": 12}
    }
    for view in VIEWS.values():
        page.goto(f"{everything.url}{view}")
        expect(page.get_by_role("alert").filter(has_text="The store does not answer.").first).to_be_visible()
    page.goto(f"{everything.url}{VIEWS['service']}")
    expect(page.locator("dl")).to_contain_text("Does not answer")
    expect(page.locator("dl")).to_contain_text("12 hits")


def test_the_view_of_the_service_has_its_replicas_and_its_rules(page: Page, everything: FakeApi) -> None:
    """Whether each replica has the latest rules and amendments, and for how long it has not. The rules have
    their limits, and open and close by domain.
    """
    page.goto(f"{everything.url}{VIEWS['service']}")
    section = page.get_by_role("region", name="Replicas", exact=True)
    expect(section).to_contain_text("Some replicas have other rules or amendments than this one.")
    table = section.get_by_role("row")
    expect(table.nth(1)).to_contain_text(re.compile("replica-1 this one.*In step.*generation 3 5c1f0a6b.*12"))
    expect(table.nth(2)).to_contain_text(re.compile("replica-2.*42 s behind.*generation 2.*12"))
    expect(table.nth(3)).to_contain_text(re.compile("replica-3.*Earlier amendments.*generation 3.*11"))
    rules = page.get_by_role("region", name="Rules", exact=True)
    expect(rules).to_contain_text("Generation 3 5c1f0a6be2d9, in force since ")
    expect(rules).to_contain_text("The last load has failed; earlier rules are in force")
    expect(rules).to_contain_text("Checked and not charged on this replica, or charged and not checked")
    expect(rules).to_contain_text(
        "token-budgets.team (a.yaml:4): 240 checks and no charge on this replica within an hour"
    )
    expect(rules).to_contain_text("is refused, and so is one without team")
    listed = page.get_by_role("region", name="Rules of token-budgets").get_by_role("row")
    assert [["Rule", "Limits", "Name"], ["token-budgets.team", "5,000 / hour", ""]] == [
        row.get_by_role("cell").or_(row.get_by_role("columnheader")).all_inner_texts() for row in listed.all()
    ]
    rules.locator("summary").click()
    expect(listed).to_have_count(0)
    rules.locator("summary").click()
    expect(listed).to_have_count(2)


def test_the_view_of_the_service_has_its_control_planes(page: Page, everything: FakeApi) -> None:
    """The rules of each, its rejected resources, and since when its rules may be out of date. Texts from
    control planes are shown as text.
    """
    page.goto(f"{everything.url}{VIEWS['service']}")
    section = page.get_by_role("region", name="Control planes", exact=True)
    table = section.get_by_role("row")
    expect(table.nth(1)).to_contain_text(re.compile("eg.*Connected.*generation 3 4be1a90c.*2 h 0 min ago"))
    expect(table.nth(2)).to_contain_text(re.compile("ai.*Not connected, stale since 10 min ago"))
    expect(section).to_contain_text("ai is not connected: UNAVAILABLE: the connection was refused")
    expect(section).to_contain_text("1 domain of eg rejected; their last good rules stay in force")
    expect(section).to_contain_text("shop: descriptors[0]: unknown unit '9'")
    expect(section).to_contain_text("No longer sent by ai, and about to end")
    hostile = "<img src=x onerror=alert(1)>"
    everything.control_planes = [
        control_plane(hostile, generation=0, hash=None, rejected=[hostile], rejected_domains=2)
    ]
    everything.overlay_problems = [hostile]
    look_again(page)
    expect(section).to_contain_text("nothing yet")
    expect(section.get_by_text(hostile, exact=True)).to_have_count(4)
    expect(section).to_contain_text("The overlays are invalid; the previous overlays stay in force")
    everything.control_planes = []
    look_again(page)
    expect(section).to_have_count(0)


def test_an_explanation_has_an_address(page: Page, everything: FakeApi) -> None:
    """It shows the rule that applies, the others, and the reasons."""
    page.goto(f"{everything.url}#/explain")
    page.get_by_label("Domain").fill("token-budgets")
    page.get_by_label("Descriptor", exact=True).fill("team=dba")
    page.get_by_role("button", name="Explain").click()
    answer = page.locator(".outcome")
    expect(answer).to_contain_text("Refused: 5774 of 5000 tokens of this hour are used")
    expect(answer).to_contain_text("the descriptor has no entry user")
    expect(answer).to_contain_text("token-budgets.team.model, with model")
    assert page.url.endswith("#/explain?domain=token-budgets&descriptor=team%3Ddba")


def test_new_refusals_appear_at_the_top(page: Page, fake_api: FakeApi) -> None:
    """The page requests new ones only, and updates can be paused."""
    fake_api.refusals = [refusal(1, "dba", message="first")]
    page.goto(f"{fake_api.url}#/refusals")
    expect(page.locator("tbody tr")).to_have_count(1)
    fake_api.refusals.append(refusal(2, "dba", message="second"))
    look_again(page)
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("tbody tr").first).to_contain_text("second")
    page.get_by_label("Search").fill("FIRST")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_a_hidden_page_sends_no_requests(page: Page, everything: FakeApi) -> None:
    """It continues when it becomes visible."""
    page.clock.install()
    page.goto(everything.url)
    expect(page.locator(".virtual .budget.over")).to_be_visible()
    page.evaluate("""Object.defineProperty(document, "hidden", { value: true, configurable: true })""")
    page.clock.run_for(60_000)
    before = everything.calls.total()
    page.clock.run_for(60_000)
    assert before == everything.calls.total()
    page.evaluate("""delete document.hidden; document.dispatchEvent(new Event("visibilitychange"))""")
    wait_for("a call", lambda: everything.calls.total() > before)
