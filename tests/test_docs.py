"""The pages of docs/ that are made from the code say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import generate_docs
from tools.generate_docs import pages


@pytest.mark.parametrize(("page", "text"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_generated_page_is_current(page: Path, text: str) -> None:
    """`make docs` would change nothing."""
    assert text == page.read_text("utf-8"), f"{page.name}: run `make docs`"


def test_a_page_that_is_not_current_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on it and changes nothing; without it the page is written, and then the check passes."""
    page = tmp_path / "settings.md"
    page.write_text("old", "utf-8")
    monkeypatch.setattr(generate_docs, "ROOT", tmp_path)
    monkeypatch.setattr(generate_docs, "pages", lambda: {page: "new"})

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["generate_docs.py", *options])
        code = generate_docs.main()
        return code, capsys.readouterr().out, page.read_text("utf-8")

    assert (1, "settings.md is not what the code says: run `make docs`\n", "old") == run("--check")
    assert (0, "wrote settings.md\n", "new") == run()
    assert (0, "", "new") == run("--check")
