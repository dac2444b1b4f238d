"""Generate the pages of docs/ that are tables of the code; with --check, only say whether they are current."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ratelimit_service.observe import catalogue

ROOT = Path(__file__).resolve().parent.parent

PAGES: tuple[tuple[str, Callable[[], str]], ...] = (("docs/metrics.md", catalogue.markdown),)
"""Each page, and what writes it."""


def main() -> int:
    """Write what is not current; with --check, name it and return 1."""
    check = "--check" in sys.argv[1:]
    behind = 0
    for name, page in PAGES:
        path, wanted = ROOT / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == wanted:
            continue
        behind += 1
        if check:
            print(f"{name} is not current: run `python -m tools.generate_docs`", file=sys.stderr)
        else:
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and behind else 0


if __name__ == "__main__":
    sys.exit(main())
