"""Copy the pages of the site, which mkdocs.yml lists, and the files that they link to: `make site`.

python3 tools/site.py DIRECTORY

Files keep their paths, so that links between them work. A link to a directory is one to its README.md;
without one, only its text stays.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent

_OWN = Path(__file__).parent / "site_files"
"""Files of the site that are no pages."""

_PAGE = re.compile(r"^\s+- [^:]+: (\S+\.md)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")

_IMAGE = re.compile(r'<(?:img|source)\b[^>]* (?:src|srcset)="([^":]+)"')
"""The file of an image that is written as HTML, for a choice by the browser."""

_EXAMPLE = re.compile(r"^( *```\w+) .+$", re.MULTILINE)
"""A block whose first line says how the tests run it."""


def pages(configuration: str) -> list[str]:
    """Return the paths of the pages in the navigation."""
    return _PAGE.findall(configuration)


def copied(page: str, text: str, top: Path, listed: frozenset[str]) -> tuple[str, set[str]]:
    """Return the text of a page with its links as the site needs them, and the files that must be copied for
    it.
    """
    files: set[str] = set()

    def link(found: re.Match[str]) -> str:
        label, target, anchor = found.groups(default="")
        path = (top / page).parent.joinpath(target).resolve()
        if path.is_dir():
            return (
                f"[{label}]({target.rstrip('/')}/README.md{anchor})"
                if (path / "README.md").exists()
                else label
            )
        if path.is_file() and (name := path.relative_to(top).as_posix()) not in listed:
            files.add(name)
        return found[0]

    for image in _IMAGE.findall(text):
        files.add((top / page).parent.joinpath(image).resolve().relative_to(top).as_posix())
    return _LINK.sub(link, _EXAMPLE.sub(r"\1", text)), files


def main() -> int:
    """Write the directory anew."""
    into = Path(sys.argv[1])
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(_OWN, into / "assets")
    listed = frozenset(pages((TOP / "mkdocs.yml").read_text()))
    for page in sorted(listed):
        text, files = copied(page, (TOP / page).read_text(), TOP, listed)
        (into / page).parent.mkdir(parents=True, exist_ok=True)
        (into / page).write_text(text)
        for name in files:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, into / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
