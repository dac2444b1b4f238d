"""Lock files: the process that holds the lock owns the file beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def locked(path: Path) -> int:
    """Create and lock a file, and return its descriptor. Closing the descriptor releases the lock.

    Raises BlockingIOError if another process holds the lock, and other OSErrors.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(os.fstat(descriptor), path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed it meanwhile: lock the new file at this path


def is_at(found: os.stat_result, path: Path) -> bool:
    """Return whether `found` is the file that `path` leads to now."""
    try:
        now = path.lstat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (now.st_dev, now.st_ino)
