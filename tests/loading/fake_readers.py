"""Replacements for reading files, which another process imports by their names."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from ratelimit_service.core.errors import InvalidRules, Problem
from ratelimit_service.core.rules.document import Contents

NOTHING = Contents()


def killed() -> Contents:
    """End as if killed by the kernel for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return NOTHING


def idle() -> Contents:
    """Wait for nothing, until killed."""
    signal.pause()
    return NOTHING


def killed_unless(path: Path) -> Contents:
    """End in the same way, unless a file exists."""
    return NOTHING if path.exists() else killed()


def broken() -> Contents:
    """Raise an exception, and print more about it than fits into a pipe."""
    sys.stderr.write("a word, " * 100_000)
    raise RuntimeError("what went wrong")


def chatty() -> Contents:
    """Print something."""
    print("a word")  # noqa: T201
    return NOTHING


def described(path: Path) -> Contents:
    """Write down the properties of the process."""
    path.write_text(
        json.dumps(
            {
                "pid": os.getpid(),
                "priority": os.getpriority(os.PRIO_PROCESS, 0),
                "session": os.getsid(0),
                "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
                "open": [
                    str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()
                ],
                "environment": dict(os.environ),
                "modules": sorted(sys.modules),
                "directory": str(Path.cwd()),
            }
        )
    )
    return NOTHING


def busy() -> Contents:
    """Work for longer than a process may stall."""
    until = time.process_time() + 1.2
    while time.process_time() < until:
        sum(range(1_000))
    return NOTHING


def short_of_descriptors() -> Contents:
    """Fail to open a file; a retry may succeed."""
    raise InvalidRules([Problem("rules.yaml", 0, "", "cannot be read: Too many open files")], again=True)
