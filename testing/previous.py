"""The version before this one, from the history of the repository."""

from __future__ import annotations

import subprocess

import pytest

from .service import REPOSITORY

PREVIOUS = "d5563f7"
"""The commit of the version before this one. With each release, it becomes that release's tag."""


def of_previous(*command: str) -> bytes:
    """Return the output of a command of git; skip the test if the history does not have the previous
    version.
    """
    done = subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the history has no {PREVIOUS}: {done.stderr.decode().strip()}")
    return done.stdout
