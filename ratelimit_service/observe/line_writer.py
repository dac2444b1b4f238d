"""Writing lines from a thread of its own, so that a reader that is slow, or does not read at all, delays no request."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

Write = Callable[[bytes], None]
"""Writes all that it is given, however long that takes. Raises OSError."""

MOST_LINES = 10_000
MOST_BYTES = 16 * 1024 * 1024


class LineWriter:
    """Hands lines to `write`, in their order. What does not fit in beside `most_lines` or `most_bytes` is dropped.

    From the writer's thread, `failed` is called with the first error of each series of writes that fail, and `caught_up` with
    the number of lines that were dropped, once everything that was held since has been written.
    """

    def __init__(
        self,
        write: Write,
        most_lines: int = MOST_LINES,
        most_bytes: int = MOST_BYTES,
        *,
        failed: Callable[[Exception], None] = lambda error: None,
        caught_up: Callable[[int], None] = lambda dropped: None,
    ) -> None:
        self._write = write
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._failed = failed
        self._caught_up = caught_up
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._lines = self._bytes = 0  # held: those that wait, and those being written
        self._closing = False
        self._failing = False
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self.dropped = 0
        """Lines, since the start, that found no room or could not be written."""

    def start(self) -> None:
        """Begin to write; what is put before that waits for it."""
        self._thread.start()

    def put(self, lines: Sequence[bytes]) -> None:
        """Have these lines written, all of them or none. Each ends with a newline."""
        size = sum(map(len, lines))
        with self._changed:
            if (
                self._closing
                or self._lines + len(lines) > self._most_lines
                or self._bytes + size > self._most_bytes
            ):
                self.dropped += len(lines)
                return
            self._lines += len(lines)
            self._bytes += size
            self._waiting += lines
            self._changed.notify()

    def close(self, patience: float) -> None:
        """Take no more, and wait until what is held has been written, for `patience` seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        while lines := self._next():
            failure: Exception | None = None
            try:
                self._write(b"".join(lines))
            except Exception as error:  # whatever it is, the next lines may fare better
                failure = error
            with self._changed:
                self._lines -= len(lines)
                self._bytes -= sum(map(len, lines))
                if failure:
                    self.dropped += len(lines)
                caught_up = not self._waiting and not failure
                dropped = self.dropped - self._reported if caught_up else 0
                self._reported += dropped
            if failure and not self._failing:
                self._failed(failure)
            self._failing = failure is not None
            if dropped:
                self._caught_up(dropped)

    def _next(self) -> list[bytes]:
        """All that waits, as soon as there is something; nothing once there will be no more."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            lines, self._waiting = self._waiting, []
            return lines


def to_stdout() -> Write:
    """Writes to where stdout leads.

    Not through sys.stdout: a thread that is stuck in there holds its lock, on which the interpreter then fails to exit.
    """
    return _to(sys.stdout, "output")


def to_stderr() -> Write:
    """Writes to where stderr leads, in the same way."""
    return _to(sys.stderr, "error")


def _to(stream: TextIO | None, name: str) -> Write:
    if stream is not None:
        return to_descriptor(stream.fileno())

    def write(data: bytes) -> None:  # started without one: its descriptor is whatever was opened first
        raise OSError(f"the process has no standard {name}")

    return write


def to_descriptor(descriptor: int) -> Write:
    """Writes to an open file descriptor, which may be one that does not block.

    Where stdout and stderr lead to the same place, what is written by one call is not interrupted by the other.
    """
    lock = _lock_of(descriptor)
    room = select.poll()
    room.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> None:
        rest = memoryview(data)
        with lock:
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    room.poll()

    return write


_LOCKS: dict[tuple[int, int], threading.Lock] = {}
"""By device and inode: a pipe with two writers."""


def _lock_of(descriptor: int) -> threading.Lock:
    try:
        place = os.fstat(descriptor)
    except OSError:  # closed: writing will say so
        return threading.Lock()
    return _LOCKS.setdefault((place.st_dev, place.st_ino), threading.Lock())
