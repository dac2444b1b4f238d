"""Lines are as long as .editorconfig declares, and no longer."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from .documents import ROOT

LINK = re.compile(r"\s*(\[[^\]]+\]: \S+|!\[[^\]]*\]\(\S+\)|<[^>]+>.*)$")
"""The definition of a link, an image, or a tag of HTML, alone on its line: it cannot be broken."""


def declared() -> list[tuple[str, int]]:
    """Return the globs of .editorconfig with a length of lines; 0 for none. The last that matches counts."""
    parser = ConfigParser(strict=True, interpolation=None)
    parser.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    found = []
    for section in parser.sections():
        length = parser[section].get("max_line_length")
        if length is not None:
            braces = re.match(r"(.*)\{(.*)\}(.*)$", section)
            globs = (
                [f"{braces[1]}{each}{braces[3]}" for each in braces[2].split(",")] if braces else [section]
            )
            found += [(glob, 0 if length == "off" else int(length)) for glob in globs]
    return found


@cache
def length_of(name: str) -> int:
    return [length for glob, length in [("*", 0), *declared()] if fnmatchcase(name, glob)][-1]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbers and lines of a page that can be broken without a change of what is rendered."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
        elif not fence and not line.lstrip().startswith("|") and not LINK.match(line):
            yield number, line


def test_ruff_wraps_at_the_declared_length() -> None:
    """And reports longer lines, of strings and comments too."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["line-length"] == length_of("x.py") == length_of("x.pyi")
    assert "E" in ruff["lint"]["select"]
    ignored = set(ruff["lint"]["ignore"]).union(*ruff["lint"]["per-file-ignores"].values())
    assert [] == [rule for rule in ignored if "E501".startswith(rule)]


def files(*globs: str) -> list[str]:
    """Return the names of files of this tree."""
    found = subprocess.run(["git", "ls-files", *globs], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("this is no git checkout")
    return found.stdout.split()


def test_prose_keeps_to_the_declared_length() -> None:
    pages = files("*.md")
    assert len(pages) > 40
    assert [] == [
        f"{page}:{number}: {len(line)} characters"
        for page in pages
        for number, line in prose((ROOT / page).read_text())
        if len(line) > length_of(page) > 0
    ]


def test_sources_that_ruff_does_not_read_keep_to_the_declared_length() -> None:
    """The native transport, the fields of C of compiled modules, and the scripts of Redis."""
    sources = files("*.pyi", "*.pyx", "*.pxd", "*.lua", "*.c")
    assert {".pyi", ".pyx", ".pxd", ".lua", ".c"} == {Path(source).suffix for source in sources}
    assert [] == [
        f"{source}:{number}: {len(line)} characters"
        for source in sources
        for number, line in enumerate((ROOT / source).read_text().splitlines(), 1)
        if len(line) > length_of(source) > 0
    ]
    assert all(length_of(f"x{suffix}") for suffix in (".md", ".pyx", ".pxd", ".lua", ".c"))


def test_what_cannot_be_broken_may_be_longer() -> None:
    long = "x" * 200
    page = (
        f"| {long} |\n```\n{long}\n```\n![top]({long})\n[a]: {long}\n<img {long}>\n{long}\n- [a]({long}) b\n"
    )
    assert [8, 9] == [number for number, line in prose(page) if len(line) > 140]
