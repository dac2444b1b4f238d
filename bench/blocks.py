"""The marked blocks of the pages, which have all measured figures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

WIDTH = 140
"""The most characters of a line of prose, as .editorconfig declares for pages."""

_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_page(page: Path, blocks: Mapping[str, str]) -> None:
    """Replace the marked blocks of a page in its file. Raises KeyError for an unknown or missing block."""
    page.write_text(fill(page.read_text("utf-8"), blocks), "utf-8")


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """Replace the marked blocks of a page. Raises KeyError for an unknown or missing block."""
    marked = {found[2] for found in _BLOCK.finditer(page)}
    if marked != set(blocks):
        raise KeyError(f"the page has the blocks {sorted(marked)}, and there are {sorted(blocks)}")
    return _BLOCK.sub(lambda found: f"{found[1]}\n{_wrapped(blocks[found[2]].strip())}\n\n{found[3]}", page)


def _wrapped(block: str) -> str:
    """Wrap the prose of a block. Tables, images and quoted lines stay as they are."""
    lines = []
    for line in block.split("\n"):
        if len(line) <= WIDTH or line.startswith(("|", "!", "<", ">", "    ")):
            lines.append(line)
        else:
            item = "  " if line.startswith("- ") else ""
            lines += textwrap.wrap(
                line, WIDTH, subsequent_indent=item, break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines)
