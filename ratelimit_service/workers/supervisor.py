"""Starts workers, restarts those that end, and passes signals, rules and questions between them.

The first worker starts alone, so that a mistake in the settings is logged once. Ports open when all workers
are ready, so that the first connections are spread over all of them. One worker leads: it serves the HTTP
ports for all.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from ..observe.merging import departed_counts
from .link import LinkError
from .rules import SharedRules
from .worker import Worker
from .worker_link import Addresses, Hello, Opening, Scrape

_FIRST_PAUSE, _LAST_PAUSE = 0.2, 30.0
"""Seconds before a worker that has ended is restarted, at first and at most; they double each time."""

_WELL_AFTER = 60.0
"""Seconds after which a running worker counts as stable: the next pause is the shortest again."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_ONE_SIGNAL = 0.2
"""Seconds within which two signals count as one."""

_LAST_WORDS = 1.0
"""Seconds that workers have to end after a second signal, before they are killed."""


class Pauses:
    """The pauses before the starts of one worker."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE

    def after(self, seconds: float) -> float:
        """Return the pause after it has run for so many seconds."""
        pause = _FIRST_PAUSE if seconds >= _WELL_AFTER else self._next
        self._next = min(2 * pause, _LAST_PAUSE)
        return pause


class Supervisor:
    """Supervises `number` workers. `hello` returns the first message to the worker with a number.

    `rules` reads the files of the rules; None if the rules come from elsewhere. `closing` is called when the
    service begins to stop.
    """

    def __init__(
        self,
        number: int,
        hello: Callable[[int], Hello],
        rules: SharedRules | None,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        self._number = number
        self._hello = hello
        self._rules = rules
        self._closing = closing
        self._workers: dict[int, Worker] = {}
        self._lead: Worker | None = None
        self._addresses: Addresses = {}
        self._departed = b""
        self._restarts = 0
        self._may_open = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped_at = 0.0
        self._code = 0
        self._up = False
        """Whether all workers have served at the same time once."""
        self._progress = asyncio.Event()
        self._worker_left = asyncio.Event()
        self._handing_over: asyncio.Task[None] | None = None
        self._kept: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("ratelimit_service")

    async def run(self) -> int:
        """Serve until a signal, or until a worker cannot start. Return the exit code."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self._start()
            await self._stopping.wait()
        finally:
            self._stop()
            await asyncio.gather(*self._kept)
            for number in _SIGNALS:  # a further signal must not change the exit code
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        return self._code

    async def _start(self) -> None:
        self._keep(0)
        if not await self._until(lambda: self._are("waiting", 1)):
            return
        for number in range(1, self._number):
            self._keep(number)
        if not await self._until(lambda: self._are("waiting", self._number)):
            return
        self._may_open.set()
        if await self._until(lambda: self._are("serving", self._number) and bool(self._addresses)):
            self._log.info("serving", **self._addresses, workers=self._number)

    def _are(self, state: str, number: int) -> bool:
        return [getattr(worker, state) for worker in self._workers.values()].count(True) >= number

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; return False if the service stops before."""
        while not condition() and not self._stopping.is_set():
            self._progress.clear()
            await self._progress.wait()
        return not self._stopping.is_set()

    # The lives of workers.

    def _keep(self, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._kept_alive(number))
        self._kept.add(task)

    async def _kept_alive(self, number: int) -> None:
        """Run a worker, and restart it when it ends, until the service stops."""
        loop, pauses = asyncio.get_running_loop(), Pauses()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                how = await self._life(number)
            except Exception as error:  # a bug: the next start may succeed
                # Not `report`, which has no field for the number of the worker.
                self._log.error("a worker cannot be supervised", worker=number, exc_info=error)
                how = {"error": str(error)}
            if self._stopping.is_set():
                return
            if not self._up:
                self._log.critical("a worker cannot start: the service ends", worker=number, **how)
                self._code = 1
                self._stop()
                return
            pause = pauses.after(loop.time() - began)
            self._restarts += 1
            self._log.error(
                "a worker has ended: it is started again",
                worker=number,
                **how,
                pause=pause,
                restarts=self._restarts,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _life(self, number: int) -> dict[str, object]:
        """Run a worker until it ends, and return how it ended."""
        worker = Worker(number, self._handlers())
        try:
            await worker.start(self._hello(number))
        except OSError as error:
            return {"error": str(error)}
        self._workers[number] = worker
        if self._stopping.is_set():  # the signal came before the process was there
            worker.signal(signal.SIGTERM)
        watch = asyncio.get_running_loop().create_task(worker.watch(partial(self._late, worker)))
        try:
            code = await worker.ended()
        finally:
            watch.cancel()
            worker.signal(signal.SIGKILL)  # does nothing if it has ended
            self._left(worker)
        if self._stopping.is_set() and code not in (0, -signal.SIGTERM):
            self._code = self._code or (code if code > 0 else 128 - code)
        return {"signal": _name(-code)} if code < 0 else {"code": code}

    def _left(self, worker: Worker) -> None:
        """Forget a worker that has ended, and let another one lead."""
        del self._workers[worker.number]
        self._departed = departed_counts(self._departed, worker.metrics)
        if self._rules is not None:
            self._rules.forget(worker)
        if self._lead is worker:
            self._elect()
        self._tell_health()
        self._progress.set()
        self._worker_left.set()
        self._worker_left.clear()

    def _elect(self) -> None:
        """Let another worker lead."""
        serving = [each for each in self._workers.values() if each.serving]
        self._lead = serving[0] if serving and not self._stopping.is_set() else None
        if self._lead is not None:
            self._lead.tell("lead", self._addresses)
            self._log.warning("another worker serves the HTTP ports now", worker=self._lead.number)

    async def _hand_over(self, worker: Worker) -> None:
        """Let another worker lead in the place of one that drains."""
        with suppress(LinkError):
            await worker.ask("resign")
        if self._lead is worker:
            self._elect()

    # Signals.

    def _on_signal(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        if not self._stopping.is_set():
            self._stopped_at = loop.time()
            self._log.info("stopping", signal=signal.Signals(number).name)
            self._stop()
        elif loop.time() - self._stopped_at > _ONE_SIGNAL:
            self._code = 128 + number
            for worker in self._workers.values():
                worker.signal(number)
            loop.call_later(_LAST_WORDS, self._kill)

    def _stop(self) -> None:
        """Tell all workers to stop, once."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._progress.set()
        self._closing()
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)

    # Messages of workers.

    def _handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            "join": self._join,
            "ready": self._ready,
            "taken": self._taken,
            "open": self._open,
            "serving": self._serving,
            "leading": self._leading,
            "health": self._health,
            "gather": self._gather,
            "scrape": self._scrape,
            "alone": self._alone,
        }

    async def _join(self, worker: Worker) -> int:
        return await self._rules.join(worker) if self._rules is not None else 0

    def _ready(self, worker: Worker, generation: int) -> None:
        if self._rules is not None:
            self._rules.ready(worker, generation)

    def _taken(self, worker: Worker, generation: int, in_force: bool) -> None:
        if in_force:
            worker.generation = generation
        if self._rules is not None:
            self._rules.note_taken(worker, generation, in_force=in_force)

    async def _open(self, worker: Worker) -> Opening:
        worker.waiting = True
        self._progress.set()
        await self._may_open.wait()
        await self._until(lambda: not self._up or may_join(worker, self._workers.values()))
        if self._lead is None:
            self._lead = worker
        return Opening(self._lead is worker, self._addresses)

    def _serving(self, worker: Worker, addresses: Addresses) -> None:
        worker.serving = True
        if worker is self._lead:
            self._addresses = {**self._addresses, **addresses}
        if self._are("serving", self._number):
            self._up = True
        self._log.debug("a worker serves", worker=worker.number)
        self._tell_health()
        self._progress.set()

    def _leading(self, worker: Worker, addresses: Addresses) -> None:
        self._addresses = {**self._addresses, **addresses}

    def _health(self, worker: Worker, unhealthy: Sequence[str]) -> None:
        worker.unhealthy = unhealthy
        if "running" in unhealthy:  # it drains by itself, and the others go on
            worker.serving = False
            if self._lead is worker and not self._stopping.is_set():
                self._handing_over = asyncio.get_running_loop().create_task(self._hand_over(worker))
        self._tell_health()
        self._progress.set()

    def _late(self, worker: Worker, late: bool) -> None:
        if worker.late is not late:
            worker.late = late
            self._tell_health()

    def _tell_health(self) -> None:
        """Tell each worker which components of the other serving ones are not healthy."""
        unhealthy = {
            worker: [
                f"{name} of worker {worker.number}"
                for name in [*worker.unhealthy, *(["answers"] if worker.late else [])]
            ]
            for worker in self._workers.values()
            if worker.serving
        }
        for worker in self._workers.values():
            names = [name for other, names in unhealthy.items() if other is not worker for name in names]
            if names != worker.reported:
                worker.reported = names
                worker.tell("elsewhere", names)

    async def _alone(self, worker: Worker) -> None:
        """Answer once no other worker runs; at once if only this one stops."""
        while self._stopping.is_set() and len(self._workers) > 1:
            await self._worker_left.wait()

    async def _gather(self, worker: Worker, name: str, *arguments: Any) -> list[Any]:
        others = [each for each in self._workers.values() if each is not worker and each.serving]
        answers = await asyncio.gather(*[_answer(each.ask("share", name, *arguments)) for each in others])
        return [answer for answer in answers if answer is not None]

    async def _scrape(self, worker: Worker, own: bytes) -> Scrape:
        worker.metrics = own
        others = [each for each in self._workers.values() if each is not worker and each.serving]
        await asyncio.gather(*[_answer(each.refresh()) for each in others])
        serving = [each for each in self._workers.values() if each.serving]
        counted = self._departed
        for each in self._workers.values():  # the counts of a draining worker stay in the sums
            if each is not worker and not each.serving:
                counted = departed_counts(counted, each.metrics)
        return Scrape(
            {each.number: each.metrics for each in others if each.metrics},
            counted,
            self._restarts,
            [each.number for each in serving],
            self._number,
            {each.number: each.generation for each in serving},
        )


def may_join(worker: Worker, workers: Iterable[Worker]) -> bool:
    """Return whether a restarted worker may open its port beside those that serve.

    It may not while it is unhealthy and they are healthy, because that makes the whole service unhealthy. Nor
    may it without rules, for example while a control plane is away, because it would not enforce the limits
    that the others enforce.
    """
    others = [each for each in workers if each.serving]
    if not others:
        return True
    if "config" in worker.unhealthy and not all(["config" in each.unhealthy for each in others]):
        return False
    return not worker.unhealthy or all([each.unhealthy for each in others])


async def _answer(asked: Awaitable[Any]) -> Any:
    """Return an answer; None if it does not come in time."""
    try:
        return await asked
    except LinkError:
        return None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
