"""Supervised background tasks: a failure is logged, counted, and repaired by starting the task again.

Without supervision, an unexpected exception would end a task for as long as the process lives: rules would
not be reloaded, or the health of the store would never change again, and no log line and no metric would show
it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import structlog

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
"""Seconds before a failed task is started again, at first and at most; each is shortened at random by up to
half."""

_WELL_AFTER = 60.0
"""Seconds after which a running task counts as repaired: the next failure is its first again."""

_CANCELLED_AGAIN = 0.2
"""Seconds after which a task that was cancelled and has not ended is cancelled once more."""

Sleep = Callable[[float], Awaitable[None]]


class Background:
    """Starts tasks and supervises them until they end."""

    def __init__(
        self, random_share: Callable[[], float] = random.random, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._random_share = random_share
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: dict[str, int] = {}
        self._log = structlog.get_logger("ratelimit_service.background")

    def failures(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each task and the number of its failures."""
        yield from self._failures.copy().items()

    def expect(self, name: str) -> None:
        """Show 0 failures for a task that has not been started."""
        self._failures.setdefault(name, 0)

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work` until it returns. If it raises, start it again after a pause."""
        self.expect(name)
        return self._start(self._kept(name, work), name)

    def failed(self, name: str, event: str, error: BaseException | None) -> None:
        """Log and count a failure outside the supervised tasks, such as in a callback of the event loop."""
        self.expect(name)
        self._failures[name] += 1
        # Not `report`: the handler that it calls is this method (app.py, cli/supervise.py).
        self._log.error(event, task=name, exc_info=error)

    async def stop(self) -> None:
        """Cancel all tasks and wait for them to end."""
        tasks = set(self._tasks)
        while tasks:
            for task in tasks:
                task.cancel()
            # Again: redis-py takes no notice of it where it is just waiting for a reply.
            _, tasks = await asyncio.wait(tasks, timeout=_CANCELLED_AGAIN)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)  # the event loop keeps only a weak reference
        task.add_done_callback(self._tasks.discard)
        return task

    async def _kept(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            began = loop.time()
            try:
                await work()
                return
            except Exception as error:
                if loop.time() - began >= _WELL_AFTER:
                    pause = _FIRST_PAUSE
                self.failed(name, "a background task has failed, and is started again", error)
            await self._sleep(pause * (1 - self._random_share() / 2))
            pause = min(2 * pause, _LAST_PAUSE)
