"""The files are read once, and their rules come into force in all workers together."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from ratelimit_service.loading.task import Task
from ratelimit_service.sources import files
from ratelimit_service.workers.rules import SharedRules
from testing.waiting import until
from tests.loading import fake_readers

GOOD = "{domain: d, descriptors: [{key: team, rate_limit: {unit: hour, requests_per_unit: 5}}]}"
BROKEN = "{domain: d, x: 1}"


class FakeWorker:
    """A worker that becomes ready when a test says so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[tuple[str, int]] = []
        self.arrived = asyncio.Event()

    def tell(self, name: str, *arguments: object) -> None:
        generation = arguments[0]
        assert isinstance(generation, int)
        if (name, generation) not in self.events:
            self.events.append((name, generation))
        if name == "load":
            self.arrived.set()


def rules_in(
    tmp_path: Path, text: str, ready_within: float = 30.0, again_after: float = 30.0
) -> tuple[SharedRules, Path]:
    file = tmp_path / "d.yaml"
    file.write_text(text)
    find = files.find_in([file])
    return SharedRules(Task(partial(files.read, find, str(file), "")), ready_within, again_after), file


def offered(generation: int) -> list[tuple[str, int]]:
    return [("piece", generation), ("load", generation)]


def used(generation: int) -> list[tuple[str, int]]:
    return [*offered(generation), ("use", generation)]


async def test_no_worker_uses_new_rules_before_all_are_ready(tmp_path: Path) -> None:
    rules, _ = rules_in(tmp_path, GOOD)
    workers = [FakeWorker(number) for number in range(3)]
    assert not await rules.load()
    assert [1, 1, 1] == [await rules.join(worker) for worker in workers]
    assert [used(1)] * 3 == [worker.events for worker in workers]
    for worker in workers:
        worker.arrived.clear()
    loading = asyncio.create_task(rules.load())
    for worker in workers:
        await worker.arrived.wait()
    for worker in workers[:2]:
        rules.ready(worker, 2)
    await asyncio.sleep(0)
    assert [[*used(1), *offered(2)]] * 3 == [worker.events for worker in workers]
    rules.ready(workers[2], 2)
    await loading
    assert [[*used(1), *used(2)]] * 3 == [worker.events for worker in workers]


async def test_a_worker_that_ends_or_is_late_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    rules, _ = rules_in(tmp_path, GOOD, ready_within=0.01)
    left, late = FakeWorker(0), FakeWorker(1)
    await rules.load()
    for worker in (left, late):
        await rules.join(worker)
        worker.arrived.clear()
    loading = asyncio.create_task(rules.load())
    await late.arrived.wait()
    rules.forget(left)
    await loading
    assert ([*used(1), *offered(2)], [*used(1), *used(2)]) == (left.events, late.events)


async def test_a_new_worker_gets_the_last_good_rules_although_the_files_are_invalid_by_now(
    tmp_path: Path,
) -> None:
    """It also gets the mistakes of the files, so that every worker can report them."""
    rules, file = rules_in(tmp_path, GOOD)
    await rules.load()
    file.write_text(BROKEN)
    assert not await rules.load()
    worker = FakeWorker(0)
    assert 2 == await rules.join(worker)
    assert [*used(1), *used(2)] == worker.events
    file.write_text(GOOD)
    loading = asyncio.create_task(rules.load())
    await until(lambda: ("load", 3) in worker.events)
    rules.ready(worker, 3)
    await loading
    another = FakeWorker(1)
    assert 3 == await rules.join(another)
    assert used(3) == another.events


async def test_a_worker_that_fails_with_good_rules_gets_them_again(tmp_path: Path) -> None:
    """Otherwise it would enforce other rules than its siblings until the next change."""
    rules, file = rules_in(tmp_path, GOOD, again_after=0.0)
    worker = FakeWorker(0)
    await rules.load()
    await rules.join(worker)
    rules.note_taken(worker, 1, in_force=True)
    await asyncio.sleep(0.01)
    assert [*used(1)] == worker.events
    worker.events.clear()
    rules.note_taken(worker, 1, in_force=False)
    await asyncio.sleep(0.01)
    assert [*used(1)] == worker.events
    rules.forget(worker)
    worker.events.clear()
    file.write_text(BROKEN)
    await rules.load()
    await rules.join(worker)
    worker.events.clear()
    rules.note_taken(worker, 2, in_force=False)  # as it should: these have a mistake
    await asyncio.sleep(0.01)
    assert [] == worker.events


async def test_rules_that_cannot_be_read_now_are_read_again_soon(tmp_path: Path) -> None:
    """`load` returns whether a retry may help. A worker that starts meanwhile gets the last good rules."""
    memory = tmp_path / "enough"
    memory.touch()
    rules = SharedRules(Task(partial(fake_readers.killed_unless, memory)))
    assert not await rules.load()
    memory.unlink()
    assert await rules.load()
    worker = FakeWorker(0)
    assert 2 == await rules.join(worker)
    assert [*used(1), *used(2)] == worker.events
