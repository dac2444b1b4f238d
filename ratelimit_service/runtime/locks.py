"""Files that say which process owns something beside them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def locked(path: Path) -> int:
    """A descriptor of the file, which is locked until it is closed; the file is made where there is none.

    Raises BlockingIOError where another process has locked it, and other OSErrors.
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
        os.close(descriptor)  # its owner has removed it meanwhile: lock the one that is there now


def is_at(found: os.stat_result, path: Path) -> bool:
    """Whether a file is still the one at `path`."""
    try:
        now = path.lstat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (now.st_dev, now.st_ino)
