"""A thread for calls that may never return, such as reading from a file system that hangs or from a FIFO
without a writer.

A process that ends waits for the threads of asyncio (`to_thread`), however long they take; it does not wait
for this one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_LATE = 1.0
"""Seconds by which a timer is late when the whole process was suspended, and not only the call was stuck."""


class StuckError(Exception):
    """A call has used no CPU time while it was awaited. `doing` describes the call."""

    def __init__(self, doing: str, seconds: float) -> None:
        super().__init__(f"{doing} does not answer: no progress for {seconds:g} s")
        self.doing = doing


class Thread:
    """Runs one call after another for the event loop. It starts with the first call, and is a daemon.

    A call may set the name of the current thread, which then describes it in StuckError.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[Any] | None = None

    async def do(self, work: Callable[[], T], patience: float) -> T:
        """Return the result of `work`, or raise its exception. Raises StuckError after `patience` seconds
        without progress.

        The stuck call keeps the thread: until it returns, further calls raise StuckError as well, each after
        `patience`.
        """
        if (
            self._done is not None and not self._done.done()
        ):  # the previous caller was cancelled, or got StuckError
            await self._wait(self._done, patience)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()  # raises RuntimeError at the limit of threads
            self._thread = thread
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self._done = done
        self._work.put((work, done))
        await self._wait(done, patience)
        return done.result()

    async def _wait(self, done: asyncio.Future[Any], patience: float) -> None:
        loop = asyncio.get_running_loop()
        used = self._used()
        while True:
            due = loop.time() + patience
            finished, _ = await asyncio.wait([done], timeout=patience)
            if finished:
                return
            before, used = used, self._used()
            if used == before and loop.time() - due < _LATE:
                raise StuckError(self._thread.name if self._thread is not None else self._name, patience)

    def _used(self) -> float:
        """Return the CPU time of the thread in seconds; 0 if the system does not report it."""
        if self._thread is None or self._thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
            return 0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def _run(self) -> None:
        while True:
            work, done = self._work.get()
            try:
                result, error = work(), None
            except BaseException as wrong:
                result, error = None, wrong
            loop = done.get_loop()
            try:
                loop.call_soon_threadsafe(_settle, done, result, error)
            except RuntimeError:  # the loop is closed: the process ends
                return


def _settle(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    elif isinstance(error, Exception):
        done.set_exception(error)
    else:
        done.set_exception(RuntimeError(f"{type(error).__name__} in a thread"))


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception, so that asyncio does not log it when no caller is left to receive it."""
    if not done.cancelled():
        done.exception()
