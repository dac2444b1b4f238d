"""The search of the site that `make site` builds, typed into in a browser, in pages from files and without a
network.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from testing.service import REPOSITORY, inherited

RELEASE = REPOSITORY / ".venv-release" / "bin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this tree."""
    if not (RELEASE / "mkdocs").exists():
        pytest.skip("mkdocs is not installed: `make site` installs it")
    built = tmp_path_factory.mktemp("site")
    pages, into, configuration = built / "pages", built / "site", built / "mkdocs.yml"
    subprocess.run([RELEASE / "python", "tools/site.py", pages], cwd=REPOSITORY, check=True)
    text = (REPOSITORY / "mkdocs.yml").read_text()
    for key, name, there in (("docs_dir", "site-pages", pages), ("site_dir", "site", into)):
        line = f"\n{key}: build/{name}"
        assert line in text
        text = text.replace(line, f"\n{key}: {there}")
    configuration.write_text(text)
    done = subprocess.run(
        [RELEASE / "mkdocs", "build", "--quiet", "--strict", "--config-file", configuration],
        cwd=REPOSITORY,
        env={**inherited(), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return into


def search(page: Page, query: str) -> None:
    """Press the key of the search, and type, as a reader does."""
    page.keyboard.press("/")
    expect(page.get_by_role("textbox", name="Search")).to_be_focused()
    page.keyboard.type(query)


def test_a_query_finds_the_pages_about_it_and_a_result_leads_there(page: Page, site: Path) -> None:
    page.context.set_offline(True)
    page.goto((site / "docs" / "operating.html").as_uri())
    search(page, "starts_on")
    results = page.locator(".md-search-result__item a")
    expect(results.first).to_have_attribute("href", re.compile(r"/docs/budgets\.html"))
    results.first.click()
    page.wait_for_url((site / "docs" / "budgets.html").as_uri() + "**")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Budgets")


def test_a_query_for_an_unknown_word_finds_nothing(page: Page, site: Path) -> None:
    page.context.set_offline(True)
    page.goto((site / "index.html").as_uri())
    search(page, "xylophonequartet")
    expect(page.locator(".md-search-result__meta")).to_have_text("No matching documents")
