"""A mirror: `compare --mirror` in a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from .service import COMMAND, inherited


@contextmanager
def mirroring(theirs: str, ours: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a mirror of two services, and yield its process and address."""
    process = subprocess.Popen(
        [
            *(*COMMAND, "compare", "--mirror", "--listen", "127.0.0.1:0"),
            *("--theirs", theirs, "--ours", ours, *options),
        ],
        env=inherited(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().removeprefix("answering on ").partition(" as ")[0]
    finally:
        process.kill()
        process.communicate()
