"""Files of the settings that are read again when they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .threads import Thread

LARGEST = 1_048_576
"""Bytes of a file with a list of entries, such as prices or receivers."""

_LOOKED_EVERY = 1.0
"""Seconds between two checks of a file."""

_ANSWERS_WITHIN = 2.0
"""Seconds that a file system has to answer."""

Use = Callable[[bytes | None], str]
"""Uses the content of a file, or None if it cannot be read, and returns what is wrong with it; empty if
nothing is.
"""

State = tuple[int, ...]
"""What differs after a change of a file."""


def state_of(file: Path) -> State:
    """Return the state of a file. Raises OSError."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def state_or_missing(file: Path) -> State:
    """Return the state of a file, and a state of its own for one that is missing."""
    try:
        return state_of(file)
    except OSError:
        return ()


class WatchedFile:
    """Passes the content of a file to `use` at each `read` after it has changed.

    `setting` names it, and at most `most` bytes and one more are read.
    """

    def __init__(self, file: str, setting: str, most: int, use: Use, clock: Callable[[], float]) -> None:
        self._file = Path(file)
        self._most = most
        self._use = use
        self._clock = clock
        self._looked = clock()
        self._seen: State | None = None
        self._files = Thread(f"looking for changes of {setting}")

    async def refresh(self) -> str:
        """Read the file again if a second has passed and it has changed (`read`). Raises StuckError."""
        if self._clock() < self._looked + _LOOKED_EVERY:
            return ""
        self._looked = self._clock()
        return await self._files.do(self.read, _ANSWERS_WITHIN)

    def read(self) -> str:
        """Use the content if it has changed, and return what is wrong with the file, once for each state of
        it.
        """
        try:
            seen = state_of(self._file)
            if seen == self._seen:
                return ""
            with self._file.open("rb") as file:
                content = file.read(self._most + 1)
        except OSError as error:  # the next call tries again
            self._use(None)
            seen, problem = (), f"{self._file} cannot be read: {error.strerror or error}"
        else:
            problem = self._use(content)
        before, self._seen = self._seen, seen
        return "" if before == seen else problem
