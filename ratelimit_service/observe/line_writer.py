"""Writes lines in a thread, so that a reader that is slow or does not read delays no request."""

from __future__ import annotations

import fcntl
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

Write = Callable[[bytes], None]
"""Writes all data, however long it takes. Raises OSError."""

MOST_LINES = 10_000
MOST_BYTES = 16 * 1024 * 1024


class LineWriter:
    """Passes lines to `write` in order. Lines beyond `most_lines` or `most_bytes` are dropped.

    In the writer's thread, `failed` is called with the first error of each series of failing writes, and
    `caught_up` with the number of dropped lines, once all lines that were held have been written.
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
        self._lines = self._bytes = 0  # held: waiting, or being written
        self._closing = False
        self._failing = False
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self.dropped = 0
        """Lines since the start without room, or whose write failed."""

    def start(self) -> None:
        """Start the thread. Lines that were put before wait for it."""
        self._thread.start()

    def put(self, lines: Sequence[bytes]) -> None:
        """Queue these lines, or drop all of them. Each ends with a newline."""
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
        """Accept no more lines, and wait for the rest to be written, for at most `patience` seconds."""
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
            except Exception as error:  # the next write may succeed
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
        """Wait for lines and return them; return none after `close`."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            lines, self._waiting = self._waiting, []
            return lines


def to_stdout() -> Write:
    """Return a function that writes to stdout.

    It does not use sys.stdout: a thread stuck in a write would hold the lock of sys.stdout, and the
    interpreter could not exit.
    """
    return _to(sys.stdout, "output")


def to_stderr() -> Write:
    """Return a function that writes to stderr, in the same way."""
    return _to(sys.stderr, "error")


def _to(stream: TextIO | None, name: str) -> Write:
    if stream is not None:
        return to_descriptor(stream.fileno())

    def write(data: bytes) -> None:  # started without one: its descriptor may be another file
        raise OSError(f"the process has no standard {name}")

    return write


def to_descriptor(descriptor: int) -> Write:
    """Return a function that writes to a descriptor, blocking or not.

    If stdout and stderr lead to the same file, their writes do not interleave, nor do those of several
    workers.
    """
    lock = _lock_of(descriptor)
    room = select.poll()
    room.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> None:
        rest = memoryview(data)
        with lock, _exclusive():
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    room.poll()

    return write


_workers_lock = -1


def lock_between_processes(descriptor: int) -> None:
    """Lock this file for each write, because other processes write to the same stdout and stderr."""
    global _workers_lock
    _workers_lock = descriptor


@contextmanager
def _exclusive() -> Iterator[None]:
    if _workers_lock < 0:
        yield
        return
    fcntl.lockf(_workers_lock, fcntl.LOCK_EX)  # the kernel releases it if this process is killed
    try:
        yield
    finally:
        fcntl.lockf(_workers_lock, fcntl.LOCK_UN)


_LOCKS: dict[tuple[int, int], threading.Lock] = {}
"""By device and inode: a pipe may have two writers."""


def _lock_of(descriptor: int) -> threading.Lock:
    try:
        place = os.fstat(descriptor)
    except OSError:  # it is closed: the write will fail
        return threading.Lock()
    return _LOCKS.setdefault((place.st_dev, place.st_ino), threading.Lock())
