"""Programs that measure write their figures into marked blocks of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing import page_blocks as blocks
from testing.service import REPOSITORY


def test_marked_blocks_are_replaced_and_nothing_else() -> None:
    """The text around them is prose. A block without a writer or without a place is a mistake."""
    page = "a\n<!-- measured: x -->\nold\n<!-- end -->\nb\n"
    filled = "a\n<!-- measured: x -->\n\nnew\n\n<!-- end -->\nb\n"
    assert filled == blocks.fill(page, {"x": "new"})
    assert filled == blocks.fill(filled, {"x": "new"})
    for given in ({}, {"x": "new", "y": "new"}):
        with pytest.raises(KeyError):
            blocks.fill(page, given)


def test_prose_of_a_block_is_wrapped_and_its_tables_are_not() -> None:
    """At the length that .editorconfig declares for pages (tests/docs/test_line_length.py)."""
    words, row = " ".join(["word"] * 50), f"| {'cell ' * 60}|"
    filled = blocks.fill("<!-- measured: x -->\n<!-- end -->\n", {"x": f"{words}\n{row}\n- {words}"})
    first, second, table, item, more = filled.splitlines()[2:-2]
    assert [words, f"- {words}"] == [" ".join([first, second]), " ".join([item, more.removeprefix("  ")])]
    assert (row, True) == (table, max(map(len, (first, second, item, more))) <= blocks.WIDTH)


def test_one_block_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    """docs/reliability.md has the tables of `make faults` and of `make soak`."""
    page = tmp_path / "page.md"
    other = "<!-- measured: soak -->\n| old |\n<!-- end -->\nafter\n"
    page.write_text(f"<!-- measured: faults -->\n| old |\n<!-- end -->\n{other}")
    blocks.fill_block(page, "faults", "| new |\n")
    assert f"<!-- measured: faults -->\n\n| new |\n\n<!-- end -->\n{other}" == page.read_text()
    with pytest.raises(KeyError, match="faults"):
        blocks.fill_block(page, "fault", "| new |\n")


@pytest.mark.parametrize("name", ["faults", "soak"])
def test_the_page_of_the_faults_has_a_place_for_each_table(name: str) -> None:
    page = (REPOSITORY / "docs" / "reliability.md").read_text()
    assert "| new |" in blocks.fill_one(page, name, "| new |")
