"""The site has every page, and each begins by saying what it is for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testing.service import REPOSITORY
from tools.site import copied, pages

LISTED = pages((REPOSITORY / "mkdocs.yml").read_text())


def test_every_page_is_in_the_navigation_once() -> None:
    command = ["git", "ls-files", "*.md"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("this is no git checkout")
    assert sorted(LISTED) == sorted(name for name in found.stdout.split() if not name.startswith(".github/"))


@pytest.mark.parametrize("page", LISTED)
def test_a_page_begins_with_a_title_and_its_purpose(page: str) -> None:
    title, blank, first, *_ = (REPOSITORY / page).read_text().splitlines()
    assert title.startswith("# ")
    assert "" == blank
    assert first[:1].isalpha() or first[:1] in "`[*"


def test_links_are_made_for_the_site(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "deploy").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("docs/a.md", "docs/b.md", "deploy/README.md", "rules.yaml"):
        (tmp_path / name).write_text("")
    text = (
        "[b](b.md#x) [d](../deploy/#y) [e](../empty) [r](../rules.yaml) [w](https://example.com/)\n"
        "```yaml warned\na: 1\n```\n"
    )
    expected = (
        "[b](b.md#x) [d](../deploy/README.md#y) e [r](../rules.yaml) [w](https://example.com/)\n```yaml\n"
        "a: 1\n```\n"
    )
    assert (expected, {"rules.yaml"}) == copied(
        "docs/a.md", text, tmp_path, frozenset({"docs/a.md", "docs/b.md"})
    )


def test_images_that_the_browser_chooses_among_are_copied(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    image = (
        '<source media="(x)" srcset="dark.png">\n<img src="../light.png" alt="x">\n'
        '<img src="https://example.com/y.png">\n'
    )
    assert (image, {"docs/dark.png", "light.png"}) == copied("docs/a.md", image, tmp_path, frozenset())
