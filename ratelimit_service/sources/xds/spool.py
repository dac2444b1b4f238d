"""Messages kept outside of Python's memory, where another process can read them.

A set of rules may have 64 MiB. As `bytes` it would be copied again and again in single steps of many milliseconds, for which
all calls wait; written to a file as it arrives, it is never copied, and loading/ passes its descriptor on to the process
that reads rules. The file has no name and needs no directory: the container's root may be read-only.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref


class Spool:
    """A file without a name; closed when nothing refers to it any more."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _anonymous() if fd is None else fd
        self.size = 0 if fd is None else os.fstat(fd).st_size
        self.close = weakref.finalize(self, os.close, self.fd)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises OSError."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self.fd, rest, self.size)
            self.size += written
            rest = rest[written:]

    def read(self, start: int, length: int) -> bytes:
        """Return a part of it."""
        return read_at(self.fd, start, length)

    def view(self) -> memoryview:
        """All of it, to be read in place."""
        # Unmapped with the last slice of it, which an exception may hold for longer than a `with` would last.
        return memoryview(mmap.mmap(self.fd, self.size, access=mmap.ACCESS_READ) if self.size else b"")


def read_at(fd: int, start: int, length: int) -> bytes:
    """Return a part of a file by its descriptor. Raises EOFError where it ends before."""
    parts = []
    while length:
        part = os.pread(fd, length, start)
        if not part:
            raise EOFError(f"{length} bytes are missing")
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("xds", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # systems other than Linux
        return os.dup(file.fileno())
