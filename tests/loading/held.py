"""A file that is only read once its writer has something to say: it holds whoever reads rules, for as long as a test likes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class HeldFile:
    """A FIFO at `path`, in place of what was there."""

    def __init__(self, path: Path) -> None:
        scratch = path.with_name(f"{path.name}.fifo")
        os.mkfifo(scratch)
        scratch.rename(path)
        self._path = path
        self._writing: int | None = None

    def is_being_read(self) -> bool:
        """Whether somebody has opened it, who then waits."""
        if self._writing is None:
            try:
                self._writing = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # ENXIO: nobody has
                return False
        return True

    def release(self, text: str) -> None:
        """Let the reader have this text, and then the end of the file."""
        assert self._writing is not None
        os.write(self._writing, text.encode())
        self.close()

    def close(self) -> None:
        """Let the reader have the end of the file; nothing where there is none."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None


def children(pid: int) -> set[int]:
    """The processes that a process has started and not yet waited for; of this one, servers of other tests are among them."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended; whoever has to take note of that may not have done so yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
