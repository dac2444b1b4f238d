"""Questions of a worker to the others, over real links to a supervisor."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ratelimit_service.runtime.health import Health
from ratelimit_service.workers.supervisor import Supervisor
from ratelimit_service.workers.worker import Worker
from ratelimit_service.workers.worker_link import Hello, WorkerLink


async def taken(*_: object) -> bool:
    return True


async def nothing() -> None:
    pass


def ignored(*_: object) -> None:
    pass


@asynccontextmanager
async def workers(number: int) -> AsyncIterator[list[WorkerLink]]:
    """Yield the links of workers that serve."""
    supervisor = Supervisor(number, lambda each: Hello(each, number, "host-1", {}, -1, -1), None)
    links, ends = [], []
    for each in range(number):
        ours, theirs = socket.socketpair()
        worker = Worker(each, supervisor._handlers())
        await worker._link.open(ours)
        worker.serving = True
        supervisor._workers[each] = worker
        ends.append(worker._link)
        links.append(WorkerLink(supervisor._hello(each), theirs))
        await links[-1].connect(Health(), taken, ignored, nothing, ignored)
    try:
        yield links
    finally:
        for link in links:
            await link.close()
        for end in ends:
            await end.close()


async def test_a_question_reaches_the_other_workers_with_its_arguments() -> None:
    """A worker that fails to answer is left out."""
    async with workers(4) as (asking, *others):
        for place, each in enumerate(others[:2]):

            async def known(names: list[tuple[str, bool]], place: int = place) -> list[bool]:
                return [name == f"d.{place}" and checked for name, checked in names]

            each.share("pairs", known)
        answers = await asking.ask("pairs", [("d.0", True), ("d.1", True), ("d.1", False)])
        assert [[False, True, False], [True, False, False]] == sorted(answers)


async def test_a_question_needs_no_arguments() -> None:
    """Most are for the state of each worker."""
    async with workers(2) as (asking, other):

        async def state() -> str:
            return "well"

        other.share("state", state)
        assert ["well"] == await asking.ask("state")
