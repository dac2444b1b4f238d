"""Writing lines from a thread of its own, so that whoever reads them slowly, or not at all, delays nobody."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence

import structlog

Write = Callable[[bytes], None]
"""Writes all that it is given, however long that takes. Raises OSError."""

MOST_LINES = 10_000
MOST_BYTES = 16 * 1024 * 1024


class LineWriter:
    """Hands lines to `write`, in their order. What does not fit in beside `most_lines` or `most_bytes` is dropped."""

    def __init__(self, write: Write, most_lines: int = MOST_LINES, most_bytes: int = MOST_BYTES) -> None:
        self._write = write
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._lines = self._bytes = 0  # held: those that wait, and those being written
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._log = structlog.get_logger("ratelimit_service.decision_log")
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
            try:
                self._write(b"".join(lines))
                failure = None
            except OSError as error:
                failure = error
            with self._changed:
                self._lines -= len(lines)
                self._bytes -= sum(map(len, lines))
                if failure:
                    self.dropped += len(lines)
            if failure and not self._failing:
                self._log.warning("the decision log cannot be written", error=str(failure))
            self._failing = failure is not None

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
    if sys.stdout is None:  # started without one: descriptor 1 is whatever was opened first
        return _nowhere
    return to_descriptor(sys.stdout.fileno())


def to_descriptor(descriptor: int) -> Write:
    """Writes to an open file descriptor, which may be one that does not block."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                select.select([], [descriptor], [])

    return write


def _nowhere(data: bytes) -> None:
    raise OSError("the process has no standard output")
