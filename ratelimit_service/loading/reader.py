"""The process that reads rules, started by process.py: `python -m ratelimit_service.loading.reader`.

    stdin     the task, pickled, and then nothing until its sender goes away, or gives up
    stdout    an empty piece as soon as the work begins, and then those of the result
    stderr    what Python says where it ends by a mistake of ours; what it is busy with, where its sender gives up

Each message has its length before it. What is imported here is waited for at each reload, so it is no more than is needed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..core.errors import InvalidRules
from ..runtime import garbage
from . import pieces
from .task import Task


def main() -> None:
    """Do one task, and end."""
    _go_first()
    out = _own_stdout()
    task: Task = pickle.loads(_task())  # noqa: S301  # from the process that has started this one
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    garbage.disable()
    try:
        for piece in _said(task):
            out.write(pieces.framed(piece))
            out.flush()
    except BrokenPipeError:  # nobody waits for it any more
        os._exit(1)
    os._exit(0)  # to take everything down would take longer than to pass it on


def _said(task: Task) -> Iterator[bytes]:
    """That the work begins, and then what it comes to."""
    yield b""
    try:
        rules = task.rules()
    except InvalidRules as error:
        yield from pieces.refused(error)
    else:
        yield from pieces.loaded(rules)


def _task() -> bytes:
    """What stands in stdin first. Read without a buffer, which the thread that waits for the end of stdin would hold."""
    stdin = sys.stdin.fileno()
    missing = int.from_bytes(os.read(stdin, pieces.LENGTH), "big")
    task = b""
    while len(task) < missing:
        some = os.read(stdin, missing - len(task))
        if not some:
            raise EOFError("there is no task")
        task += some
    return task


def _own_stdout() -> BinaryIO:
    """The way out for pieces alone: who prints, prints to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out


def _end_with_the_parent() -> None:
    """Wait until the parent ends, however it does, or wants the rules no more: its end of the pipe is closed then.

    A byte means that it waits in vain for a file. The main thread has the name of the file that it reads (sources/files.py).
    """
    if os.read(sys.stdin.fileno(), 1):
        os.write(sys.stderr.fileno(), threading.main_thread().name.encode(errors="backslashreplace"))
    os._exit(1)


def _go_first() -> None:
    """Where memory runs out, it is to end this process and not the one that serves."""
    with contextlib.suppress(OSError):  # not on a Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
