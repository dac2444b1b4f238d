"""The marked blocks of pages with measured figures: of the benchmark, of `make soak` and of `make faults`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

WIDTH = 140
"""The most characters of a line of prose, as .editorconfig declares for pages."""

_BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_page(page: Path, blocks: Mapping[str, str]) -> None:
    """Replace the marked blocks of a page in its file. Raises KeyError for an unknown or missing block."""
    page.write_text(fill(page.read_text("utf-8"), blocks), "utf-8")


def fill_block(page: Path, name: str, block: str) -> None:
    """Replace one marked block of a page in its file. Raises KeyError if the page has no such block."""
    page.write_text(fill_one(page.read_text("utf-8"), name, block), "utf-8")


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """Replace the marked blocks of a page. Raises KeyError for an unknown or missing block."""
    marked = _names(page)
    if marked != set(blocks):
        raise KeyError(f"the page has the blocks {sorted(marked)}, and there are {sorted(blocks)}")
    return _replace(page, blocks)


def fill_one(page: str, name: str, block: str) -> str:
    """Replace one marked block of a page, and keep the others. Raises KeyError if there is no such block."""
    marked = _names(page)
    if name not in marked:
        raise KeyError(f"the page has the blocks {sorted(marked)}, and not {name}")
    return _replace(page, {name: block})


def _names(page: str) -> set[str]:
    return {found[2] for found in _BLOCK.finditer(page)}


def _replace(page: str, blocks: Mapping[str, str]) -> str:
    def filled(found: re.Match[str]) -> str:
        block = blocks.get(found[2])
        return found[0] if block is None else f"{found[1]}\n{_wrapped(block.strip())}\n\n{found[3]}"

    return _BLOCK.sub(filled, page)


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
