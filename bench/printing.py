"""Printing of results as they come."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
