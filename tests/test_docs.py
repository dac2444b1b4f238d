"""The pages of docs/ that are made from the code say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.generate_docs import pages


@pytest.mark.parametrize(("page", "text"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_generated_page_is_current(page: Path, text: str) -> None:
    """`make docs` would change nothing."""
    assert text == page.read_text("utf-8"), f"{page.name}: run `make docs`"
