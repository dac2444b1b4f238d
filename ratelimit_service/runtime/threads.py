"""A thread for calls that may never return: to a file system that does not answer, to a FIFO that nobody writes to.

The threads of asyncio (`to_thread`) are waited for when the process ends, however long that takes.
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
"""Seconds beyond its time after which a timer says that this process itself stood still, and not only the call."""


class StuckError(Exception):
    """A call has used no CPU time for as long as it was waited for. `doing` is what it was last busy with."""

    def __init__(self, doing: str, seconds: float) -> None:
        super().__init__(f"{doing} does not answer: nothing has come of it for {seconds:g} s")
        self.doing = doing


class Thread:
    """Does one thing after another for the event loop. It starts with the first, and never keeps the process from ending.

    What it does may set the name of the current thread to say what it is busy with.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[Any] | None = None

    async def do(self, work: Callable[[], T], patience: float) -> T:
        """Return what `work` does, or raise what it raises. Raises StuckError where it stands still for `patience` seconds.

        It then still has the thread: until it returns, further calls raise StuckError as well, each after `patience`.
        """
        if self._done is not None and not self._done.done():  # somebody before was cancelled, or gave up
            await self._wait(self._done, patience)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()  # raises RuntimeError where there can be no more
            self._thread = thread
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_take_note)
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
        """Seconds of CPU time that the thread has used; 0 where the system does not say."""
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
                loop.call_soon_threadsafe(_tell, done, result, error)
            except RuntimeError:  # the loop is closed: the process ends
                return


def _tell(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    elif isinstance(error, Exception):
        done.set_exception(error)
    else:
        done.set_exception(RuntimeError(f"{type(error).__name__} in a thread"))


def _take_note(done: asyncio.Future[Any]) -> None:
    """Take note of an exception that nobody waits for any more."""
    if not done.cancelled():
        done.exception()
