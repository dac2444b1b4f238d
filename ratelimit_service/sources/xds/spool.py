"""Messages outside of Python's memory, where another process can read them.

A set of rules may have 64 MiB. Each copy of such a `bytes` takes many milliseconds, and calls wait meanwhile.
A message that is written to a file as it arrives is never copied: loading/ passes the file descriptor to the
process that reads rules. The file has no name and needs no directory, because the root of the container may
be read-only.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator

_CHUNK = 1 << 20


class Spool:
    """A file without a name. It is closed when the last reference to it is gone."""

    def __init__(self) -> None:
        self.fd = _anonymous()
        self.size = 0
        self.close = weakref.finalize(self, os.close, self.fd)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises OSError."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self.fd, rest, self.size)
            self.size += written
            rest = rest[written:]

    def read(self, start: int, length: int) -> bytes:
        """Return a part of the file."""
        return read_at(self.fd, start, length)

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Yield a part of the file in pieces of at most a MiB."""
        for at in range(start, start + length, _CHUNK):
            yield self.read(at, min(_CHUNK, start + length - at))

    def view(self) -> memoryview:
        """Return the whole file, mapped into memory."""
        # No `with`: an exception may hold a slice, and the file must stay mapped until the last slice is
        # gone.
        return memoryview(mmap.mmap(self.fd, self.size, access=mmap.ACCESS_READ) if self.size else b"")


def read_at(fd: int, start: int, length: int) -> bytes:
    """Return a part of an open file. Raises EOFError if the file is shorter."""
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
