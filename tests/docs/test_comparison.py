"""The table of projects in README.md is an extract of the one in docs/comparison.md, which has the
sources.
"""

from __future__ import annotations

import re

from .documents import DOCS, ROOT

README, COMPARISON = (ROOT / "README.md").read_text(), (DOCS / "comparison.md").read_text()

IN_ANOTHER_ROW = {"calendar months in a time zone": "windows"}
"""Rows of README.md with another name than in docs/comparison.md."""


def table(text: str) -> dict[str, dict[str, str]]:
    """Return each row as its cells by project."""
    found = re.search(r"^\| \| this service .*(?:\n\|.*)+", text, re.MULTILINE)
    assert found
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[0].splitlines()]
    return {name: dict(zip(lines[0][1:], cells, strict=True)) for name, *cells in lines[2:]}


def test_the_table_of_the_readme_agrees_with_the_comparison() -> None:
    sourced, shown = table(COMPARISON), table(README)
    assert len(shown) > 5
    for name, cells in shown.items():
        row = sourced[IN_ANOTHER_ROW.get(name, name)]
        unknown = {project for project, cell in cells.items() if cell == "?"}
        assert (name, {project for project in cells if row[project] == "?"}) == (name, unknown)


def test_both_have_the_same_date() -> None:
    state = r"(?:State|As) of (\d{4}-\d\d-\d\d)\."
    assert 1 == len(re.findall(state, README))
    assert re.findall(state, README) == re.findall(state, COMPARISON)


def test_each_link_of_the_comparison_is_used_and_defined() -> None:
    used = set(re.findall(r"\]\[([\w-]+)\]", COMPARISON))
    defined = re.findall(r"^\[([\w-]+)\]: https://", COMPARISON, re.MULTILINE)
    assert sorted(used) == sorted(defined)
