"""The search of the documentation's site runs without a network and without a server, in pages that are
opened from files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from testing.service import REPOSITORY

SHIM = REPOSITORY / "tools/site_files/iframe-worker.js"

WORKER = """\
self.addEventListener("message", async ({data}) => {
  await importScripts("more.js");
  postMessage([data, more, document.querySelector("script[src]").src.split("/").pop()]);
});
"""


@pytest.fixture
def opened(page: Page, tmp_path: Path) -> Page:
    """A page from a file, with two scripts beside it, and no network."""
    (tmp_path / "index.html").write_text(f"<head><script>{SHIM.read_text()}</script></head><body></body>")
    (tmp_path / "worker.js").write_text(WORKER)
    (tmp_path / "more.js").write_text("var more = 'imported';")
    page.context.set_offline(True)
    page.goto((tmp_path / "index.html").as_uri())
    return page


def test_a_worker_of_a_page_from_a_file_gets_messages_and_answers(opened: Page) -> None:
    """Messages that are sent before its script has loaded arrive in their order."""
    answers = opened.evaluate("""() => new Promise((done) => {
        const worker = new Worker("worker.js"), found = [];
        worker.addEventListener("message", ({data}) => { if (found.push(data) == 2) done(found); });
        worker.postMessage(1);
        worker.postMessage(2);
    })""")
    assert [[1, "imported", "worker.js"], [2, "imported", "worker.js"]] == answers


def test_a_worker_without_its_script_fails_and_one_that_ends_is_gone(opened: Page) -> None:
    assert "nothing.js" in opened.evaluate("""() => new Promise((done) => {
        new Worker("nothing.js").addEventListener("error", ({error}) => done(error.message));
    })""")
    assert 0 == opened.evaluate("""() => {
        document.querySelector("iframe").remove();
        new Worker("worker.js").terminate();
        return document.querySelectorAll("iframe").length;
    }""")


def test_the_site_has_this_script_and_loads_none_from_another_server() -> None:
    """mkdocs-material adds an address of its own unless one of the scripts has this name."""
    found = re.search(r"^  polyfills: \[(.+)\]", (REPOSITORY / "mkdocs.yml").read_text(), re.MULTILINE)
    assert found
    assert f"assets/{SHIM.name}" == found[1]
