"""A worker, as the supervisor sees it: its process, its link, and what it has reported."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from .link import Failed, Link, LinkError
from .worker_link import METRICS, Hello

COMMAND = ("-P", "-m", f"{__package__.rpartition('.')[0]}.cli.worker")
"""The arguments of Python. -P keeps the working directory from being searched for packages; PYTHONPATH
replaces it.
"""

_PACKAGES = str(Path(__file__).parents[2])

LENGTH = 4
"""The bytes of the length before the first message, in big-endian order."""

_ASKED_EVERY = 1.0
"""The shortest time in seconds between two requests for the metrics of a worker. If it is killed, its later
counts are lost.
"""

_SHARE_OF_TIME = 0.01
"""The largest share of the time that a worker spends on these requests."""

ANSWERS_WITHIN = 5.0
"""Seconds after which a worker that has not answered counts as unhealthy."""

KILLED_AFTER = 30.0
"""Seconds after which such a worker is killed, because its callers get no answers either."""

_LATE = 2.0
"""If a timer is late by so many seconds, the whole machine has been suspended."""


class Worker:
    """A running worker. `handlers` are for its messages, and get the worker as their first argument."""

    def __init__(
        self,
        number: int,
        handlers: Mapping[str, Callable[..., Any]],
        *,
        command: Sequence[str] = COMMAND,
        answers_within: float = ANSWERS_WITHIN,
        killed_after: float = KILLED_AFTER,
    ) -> None:
        self._command = command
        self._answers_within = answers_within
        self._killed_after = killed_after
        self.number = number
        self.waiting = False
        """Whether it can open its ports."""
        self.serving = False
        """Whether its gRPC port is open."""
        self.generation = 0
        """The load whose rules it has in force."""
        self.metrics = b""
        """Its metrics, as last reported."""
        self.unhealthy: Sequence[str] = ()
        """Its components that are not healthy."""
        self.late = False
        """Whether it is late with an answer."""
        self.reported: Sequence[str] = ()
        """The unhealthy components of other workers, as last reported to it."""
        self._heard_from = asyncio.Event()
        """Set by its first message. Before that, it imports modules, for however long."""
        self.process: asyncio.subprocess.Process | None = None
        self._link = Link({name: self._bound(handler) for name, handler in handlers.items()})
        self._log = structlog.get_logger("ratelimit_service.workers")

    def _bound(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        def bound(*arguments: Any) -> Any:
            self._heard_from.set()
            return handler(self, *arguments)

        return bound

    async def start(self, hello: Hello) -> None:
        """Start its process. Raises OSError."""
        ours, theirs = socket.socketpair()
        message = pickle.dumps(hello)
        with theirs:
            ours.sendall(len(message).to_bytes(LENGTH, "big") + message)
            try:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable or "python3",
                    *self._command,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join([*map(os.path.abspath, sys.path), _PACKAGES]),
                    },
                    # So that Ctrl-C reaches only the supervisor, which then sends a signal to each worker.
                    start_new_session=True,
                    pass_fds=[
                        each for each in (theirs.fileno(), hello.listening, hello.log_lock) if each >= 0
                    ],
                )
            except BaseException:
                ours.close()
                raise
        await self._link.open(ours)

    def tell(self, name: str, *arguments: object) -> None:
        """Send it a message."""
        self._link.tell(name, *arguments)

    async def ask(self, name: str, *arguments: object) -> Any:
        """Return its answer to a question. Raises LinkError."""
        return await self._link.ask(name, *arguments, patience=self._answers_within)

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of its process, and return the exit code, negative for a signal."""
        assert self.process is not None
        code = await self.process.wait()
        await self._link.close()
        return code

    async def watch(self, late: Callable[[bool], None]) -> None:
        """Fetch its metrics regularly, and kill it if it stops answering. `late` is called with whether an
        answer is late.
        """
        await self._heard_from.wait()
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while True:
            pause, asked = _ASKED_EVERY, loop.time()
            try:
                with suppress(Failed):  # the worker has logged it
                    await self.refresh()
            except LinkError:
                now = loop.time()
                late(True)
                if now - asked > self._answers_within + _LATE:
                    answered = now
                elif now - answered >= self._killed_after:
                    self._log.error("a worker does not answer: it is killed", worker=self.number)
                    self.signal(signal.SIGKILL)
                    return
            else:
                answered = loop.time()
                pause = max(pause, (answered - asked) / _SHARE_OF_TIME)
                late(False)
            await asyncio.sleep(pause)

    async def refresh(self) -> None:
        """Get its metrics. Raises LinkError."""
        self.metrics = await self.ask("share", METRICS)
