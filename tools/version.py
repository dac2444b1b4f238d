"""The version of this tree, which pyproject.toml has, for the release's workflow.

python3 tools/version.py            print it
python3 tools/version.py --notes    print what CHANGELOG.md says of it
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).parent.parent


def version(top: Path = TOP) -> str:
    """Return the version of the project in a directory."""
    return str(tomllib.loads((top / "pyproject.toml").read_text())["project"]["version"])


def notes(of: str, changelog: str) -> str | None:
    """Return the section of a version in a changelog, without its heading; None if there is no such section."""
    sections = re.split(r"^## \[(.+?)\].*$", changelog, flags=re.MULTILINE)
    return dict(zip(sections[1::2], map(str.strip, sections[2::2]), strict=True)).get(of)


def main() -> int:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description="Print the version of this tree.")
    parser.add_argument("--notes", action="store_true", help="print what CHANGELOG.md says of it")
    wants_notes = parser.parse_args().notes
    this = version()
    if not wants_notes:
        print(this)
        return 0
    found = notes(this, (TOP / "CHANGELOG.md").read_text())
    if found is None:
        print(f"CHANGELOG.md has no section [{this}]", file=sys.stderr)
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
