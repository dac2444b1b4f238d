"""The process that reads rules, started by process.py: `python -m ratelimit_service.loading.reader`.

    stdin     the task, pickled; later its end, if the parent ends, or one byte, if the parent gives up
    stdout    an empty piece when the work begins, then the pieces of the result, and an empty piece
    stderr    a traceback after a bug; the name of the current file, if the parent gives up

Each message follows its length. Every reload waits for the imports of this module, so they are few.
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
    """Do one task, and exit."""
    _prefer_for_oom_kill()
    out = _own_stdout()
    task: Task = pickle.loads(_task())  # noqa: S301  # from the parent process
    own = threading.main_thread().name
    threading.Thread(target=_end_with_the_parent, args=(own,), daemon=True).start()
    garbage.disable()
    try:
        for piece in _result(task):
            out.write(pieces.framed(piece))
            out.flush()
    except BrokenPipeError:  # the parent has gone
        os._exit(1)
    os._exit(0)  # releasing the rules would take longer than sending them


def _result(task: Task) -> Iterator[bytes]:
    """Yield an empty piece before the work, the pieces of the result, and an empty piece."""
    yield b""
    try:
        rules = task.rules()
    except InvalidRules as error:
        yield from pieces.pieces_of_problems(error)
    else:
        yield from pieces.pieces_of_rules(rules)
    yield b""


def _task() -> bytes:
    """Read the task from stdin, without a buffer, because the thread that waits for its end reads it, too."""
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
    """Return stdout, and redirect `print` to stderr: stdout is for pieces alone."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out


def _end_with_the_parent(own: str) -> None:
    """Exit when the parent ends or cancels the load, which closes its end of the pipe.

    A byte means that the parent gives up on a file that does not answer. The name of the main thread is that
    file (sources/files.py); it is `own` if the process has not come to a file yet.
    """
    if os.read(sys.stdin.fileno(), 1) and (file := threading.main_thread().name) != own:
        os.write(sys.stderr.fileno(), file.encode(errors="backslashreplace"))
    os._exit(1)


def _prefer_for_oom_kill() -> None:
    """Make the kernel kill this process, not the serving one, if memory runs out."""
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
