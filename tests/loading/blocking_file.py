"""A file that blocks its reader until a test releases it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class HeldFile:
    """A FIFO at `path`, which replaces the file there."""

    def __init__(self, path: Path) -> None:
        scratch = path.with_name(f"{path.name}.fifo")
        os.mkfifo(scratch)
        scratch.rename(path)
        self._path = path
        self._writing: int | None = None

    def is_being_read(self) -> bool:
        """Return whether a process has opened it for reading, and therefore waits."""
        if self._writing is None:
            try:
                self._writing = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # ENXIO: no reader
                return False
        return True

    def release(self, text: str) -> None:
        """Give the reader this text, and the end of the file."""
        assert self._writing is not None
        os.write(self._writing, text.encode())
        self.close()

    def close(self) -> None:
        """Give a reader the end of the file, if there is a reader."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None


def children(pid: int) -> set[int]:
    """Return the children of a process. Those of this process include the servers of other tests."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
