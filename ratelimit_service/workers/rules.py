"""Reads the files of the rules once, for all workers, and puts them in force in all of them at once.

    supervisor  ── piece …, load(G) ──▶  each worker: takes the rules over in slices, compiles them
                ◀────── ready(G) ──────  each worker
                ─────── use(G) ───────▶  all workers, in one turn of the event loop

A worker that is started later gets the last good rules, although the files may be invalid by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from ..core.errors import InvalidRules, Problem
from ..loading import pieces
from ..loading.process import STALLED_AFTER, pieces_elsewhere
from ..loading.task import Task
from ..runtime.threads import StuckError, Thread

READY_WITHIN = 30.0
"""Seconds that workers have to compile new rules. After that, the ready ones use them without the others."""


AGAIN_AFTER = 5.0
"""Seconds after which a worker that has failed gets the same rules again."""


class RuleTaker(Protocol):
    """A worker that takes rules."""

    number: int

    def tell(self, name: str, *arguments: object) -> None:
        """Send it a message (link.py)."""
        ...


class Offer(NamedTuple):
    """The result of a load, which is rules or problems: the number of the load, and the pieces of its
    result.
    """

    generation: int
    pieces: Sequence[bytes]

    def send(self, worker: RuleTaker) -> None:
        """Send it to a worker, which puts it in force once it gets `use` with its generation."""
        for piece in self.pieces:
            worker.tell("piece", self.generation, piece)
        worker.tell("load", self.generation)


class SharedRules:
    """The rules in the files, for the workers that have joined."""

    def __init__(
        self, task: Task, ready_within: float = READY_WITHIN, again_after: float = AGAIN_AFTER
    ) -> None:
        self._task = task
        self._again_after = again_after
        self._ready_within = ready_within
        self._workers: set[RuleTaker] = set()
        self._unready: set[RuleTaker] = set()
        self._all_ready = asyncio.Event()
        self._good: Offer | None = None
        self._refused: Offer | None = None
        self._coming: Offer | None = None
        self._loaded = asyncio.Event()
        self._loading = asyncio.Lock()
        self._generation = 0
        self._thread = Thread("reading the rules")
        self._log = structlog.get_logger("ratelimit_service.workers")

    async def load(self) -> bool:
        """Load the files. Return whether a retry may succeed without a change of the files."""
        async with self._loading:
            offer = Offer(self._generation + 1, await self._read())
            self._generation = offer.generation
            end = pieces.end_of(offer.pieces[-1])
            await self._offer(offer)
            if end.problems and not end.hold:
                self._refused = offer
            else:
                self._good, self._refused = offer, None
            for worker in self._workers:
                worker.tell("use", offer.generation)
            self._loaded.set()
            return end.again

    async def join(self, worker: RuleTaker) -> int:
        """Send a worker the rules in force from now on. Return the generation that it has to wait for."""
        await self._loaded.wait()
        self._workers.add(worker)
        latest = 0
        for offer in (self._good, self._refused):
            if offer is not None:
                offer.send(worker)
                worker.tell("use", offer.generation)
                latest = offer.generation
        if self._coming is not None:
            self._coming.send(worker)
        return latest

    def ready(self, worker: RuleTaker, generation: int) -> None:
        """Note that a worker can use the rules of this generation, or has refused them."""
        if generation == self._generation:
            self._leave(worker)

    def note_taken(self, worker: RuleTaker, generation: int, *, in_force: bool) -> None:
        """Note whether a worker has the rules of this generation in force now.

        A worker that fails to use valid rules, for example for lack of memory, gets them again. Meanwhile its
        rules differ from those of the others, which `ratelimit_service_worker_generation` shows.
        """
        good = self._good
        if not in_force and good is not None and good.generation == generation:
            self._log.error("a worker has failed to use new rules: it gets them again", worker=worker.number)
            asyncio.get_running_loop().call_later(self._again_after, self._again, worker, good)

    def _again(self, worker: RuleTaker, offer: Offer) -> None:
        if worker in self._workers and offer is self._good:
            offer.send(worker)
            worker.tell("use", offer.generation)

    def forget(self, worker: RuleTaker) -> None:
        """Forget a worker, which has ended."""
        self._workers.discard(worker)
        self._leave(worker)

    def _leave(self, worker: RuleTaker) -> None:
        self._unready.discard(worker)
        if not self._unready:
            self._all_ready.set()

    async def _offer(self, offer: Offer) -> None:
        """Send an offer to all workers, and wait until they are ready."""
        self._coming = offer
        self._unready = set(self._workers)
        self._all_ready.clear()
        for worker in self._workers:
            offer.send(worker)
        if self._unready:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ready.wait(), self._ready_within)
        if self._unready:
            late = sorted(worker.number for worker in self._unready)
            self._log.error(
                "workers are late with new rules: the others use them already",
                workers=late,
                seconds=self._ready_within,
            )
        self._coming = None

    async def _read(self) -> Sequence[bytes]:
        try:
            read = await pieces_elsewhere(self._task, hurry=self._good is None)
            if read is None:  # no process can be started
                read = await self._thread.do(partial(_read_here, self._task), STALLED_AFTER)
            pieces.end_of(read[-1])  # raises InvalidPieces for anything other than rules
            return read
        except InvalidRules as error:
            return tuple(pieces.pieces_of_problems(error))
        except StuckError as error:
            problem = Problem(error.doing, 0, "", f"could not be read: {error}. A retry follows soon")
        except Exception as error:  # no file descriptors or memory, or a bug
            # Not `report`, which counts failures of tasks: this one is handled, and counted as a failed load
            # of rules.
            self._log.error("the rules cannot be loaded", exc_info=error)
            text = f"could not be loaded: {type(error).__name__}: {error}. A retry follows soon"
            problem = Problem("configuration", 0, "", text)
        return tuple(pieces.pieces_of_problems(InvalidRules([problem], again=True)))


def _read_here(task: Task) -> tuple[bytes, ...]:
    try:
        return tuple(pieces.pieces_of_rules(task.rules()))
    except InvalidRules as error:
        return tuple(pieces.pieces_of_problems(error))
