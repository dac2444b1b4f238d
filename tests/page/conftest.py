"""A real browser for the tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from testing.waiting import PATIENCE

from .answers import HOSTILE, book, budget, control_plane, moment, refusal, spent, window
from .fake_api import FakeApi

expect.set_options(timeout=1_000 * PATIENCE)  # by default, 5 seconds

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

EXPECTED = ("Failed to load resource",)
"""How the browser reports an error status: several tests cause one."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium, which all tests of a module share.

    It is not shared by the whole session: Playwright has an event loop in this thread, which would prevent
    asynchronous tests.
    """
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("chromium not found: on Debian, `make test` installs it as root")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield started
        started.close()


class Opened(list[str]):
    """The errors that scripts have reported in a page. A test may read them, and the fixture checks them at
    the end.
    """

    def listen(self, page: Page) -> None:
        """Record the errors of a page."""
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(EXPECTED):
            self.append(message.text)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser with an empty profile. The test fails if a script fails or violates the content security
    policy.
    """
    opened = Opened()
    context = browser.new_context(
        locale="en-GB", timezone_id="Europe/Berlin", viewport={"width": 1200, "height": 900}
    )
    context.set_default_timeout(1_000 * PATIENCE)
    context.on("page", opened.listen)
    yield context
    context.close()
    assert [] == opened


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """An empty page in this browser."""
    return context.new_page()


@pytest.fixture
def fake_api() -> Iterator[FakeApi]:
    """An API whose answers the test sets."""
    with FakeApi() as server:
        yield server


@pytest.fixture
def everything(fake_api: FakeApi) -> FakeApi:
    """An API with data for each view."""
    fake_api.books = [
        book([["team", "dba"]], spent("2026-11-21T01:00:00Z", 4_211, 200, 3, "2.50"), currency="USD"),
        book([["team", "support"]], spent("2026-11-21T02:00:00Z", 900)),
        *[book([["team", value]], spent("2026-11-22T02:00:00Z", 7)) for value, _ in HOSTILE.values()],
    ]
    fake_api.budgets = [
        budget("fine", window(10, 5_000)),
        budget("dba", window(5_774, 5_000), window(9_000, 50_000, name="day")),
        budget("support", window(17_000, 20_000), name="support-hour"),
        budget("stopped", window(10, 5_000, effective=0)),
        budget("more", window(6_200, 5_000, effective=7_000)),
        *[budget(value, window(1, 10)) for value, _ in HOSTILE.values()],
    ]
    fake_api.refusals = [refusal(number, value) for number, (value, _) in enumerate(HOSTILE.values(), 1)]
    amended = {
        "id": "t-1",
        "kind": "top_up",
        "domain": "token-budgets",
        "descriptor": "team=dba",
        "amount": 2_000,
        "window": None,
        "until": None,
        "windows": 1,
        "since": moment(-60),
        "author": "ana",
        "reason": "launch",
        "blocks": False,
    }
    fake_api.amendments = [amended]
    fake_api.budgets[1]["amendments"] = [amended]
    edit = {"action": "put", "id": "t-1", "domain": "token-budgets", "descriptor": "team=dba", "window": None}
    fake_api.audit = [
        {
            **edit,
            "before": None,
            "after": amended,
            "counters": [],
            "version": 12,
            "at": moment(-60),
            "author": "ana",
            "reason": "launch",
            "key": "k",
        }
    ]
    fake_api.control_planes = [
        control_plane("eg", rejected_domains=1, rejected=["shop: descriptors[0]: unknown unit '9'"]),
        control_plane(
            "ai",
            connected=False,
            error="UNAVAILABLE: the connection was refused",
            stale_since=moment(-630),
            missing=["ai-gateway-quota"],
        ),
    ]
    fake_api.unpaired = [
        "token-budgets.team (a.yaml:4): 240 checks and no charge on this replica within an hour"
    ]
    fake_api.problems = [
        {"file": "a.yaml", "line": 3, "path": "descriptors[0]", "problem": "'fortnight' is no unit"}
    ]
    return fake_api
