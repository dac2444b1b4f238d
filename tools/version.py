"""The version of this tree, which pyproject.toml has, for the release's workflow and `make check`.

python3 tools/version.py            print it
python3 tools/version.py --notes    print what CHANGELOG.md says of it
python3 tools/version.py --check    fail if CHANGELOG.md lists changes for another or for a released version
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).parent.parent


def version(top: Path = TOP) -> str:
    """Return the version of the project in a directory."""
    return str(tomllib.loads((top / "pyproject.toml").read_text())["project"]["version"])


def notes(of: str, changelog: str) -> str | None:
    """Return the section of a version in a changelog, without its heading; None if there is no such
    section.
    """
    sections = re.split(r"^## \[(.+?)\].*$", changelog, flags=re.MULTILINE)
    return dict(zip(sections[1::2], map(str.strip, sections[2::2]), strict=True)).get(of)


def problem(top: Path = TOP) -> str | None:
    """Return the reason why the changes in the changelog are not those of the version; None if they are."""
    this = version(top)
    listed = re.findall(r"^## (.*)$", (top / "CHANGELOG.md").read_text(), re.MULTILINE)
    if not listed or not re.fullmatch(rf"\[{re.escape(this)}\] - \d{{4}}-\d\d-\d\d", listed[0]):
        return (
            f"CHANGELOG.md: the first section must be `## [{this}] - DATE`, the version in pyproject.toml: "
            f"add changes there. It is `## {listed[0] if listed else ''}`"
        )
    tag = f"v{this}"
    compare = ("git", "-C", str(top), "diff", "--quiet", tag, "--", "CHANGELOG.md")
    if subprocess.run(compare, capture_output=True, check=False).returncode == 1:
        return (
            f"{tag} is released, and CHANGELOG.md has changed since: raise the version (CONTRIBUTING.md, "
            "Release)"
        )
    return None


def main() -> int:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description="Print the version of this tree.")
    parser.add_argument("--notes", action="store_true", help="print what CHANGELOG.md says of it")
    parser.add_argument("--check", action="store_true", help="check that CHANGELOG.md is about it")
    given = parser.parse_args()
    this = version()
    if given.check:
        wrong = problem()
        if wrong is not None:
            print(wrong, file=sys.stderr)
        return wrong is not None
    if not given.notes:
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
