"""Background tasks: if one ends with an error, it is logged, counted and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from ratelimit_service.runtime.tasks import Background

AGAIN = "a background task has failed, and is started again"


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


class Naps:
    """The pauses of a supervisor; they take no time."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


class Work:
    """A task that raises each of these exceptions in turn, and then returns."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        if self._failures:
            raise self._failures.pop(0)


async def test_a_failed_task_is_started_again_until_it_returns(logged: list[Any]) -> None:
    """For any exception. Each failure has a log line with its cause, and is counted under the name of the
    task.
    """
    background, work = Background(sleep=Naps().sleep), Work(OSError("no descriptor"), ValueError("no number"))
    await background.keep("rules", work)
    assert (3, {"rules": 2}) == (work.begun, dict(background.failures()))
    assert [(AGAIN, "rules", "no descriptor"), (AGAIN, "rules", "no number")] == [
        (line["event"], line["task"], str(line["exc_info"])) for line in logged
    ]


async def test_pauses_grow_and_have_jitter() -> None:
    """So a task that fails at once does not keep the service busy, and replicas do not retry together."""
    naps = Naps()
    work = Work(*[OSError()] * 7)
    await Background(lambda: 0.0, naps.sleep).keep("rules", work)
    assert [1, 2, 4, 8, 16, 30, 30] == naps.taken
    naps.taken.clear()
    await Background(lambda: 1.0, naps.sleep).keep("rules", Work(OSError(), OSError()))
    assert [0.5, 1] == naps.taken


async def test_a_task_that_ran_for_long_begins_with_a_short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause of earlier failures is gone."""
    naps, now = Naps(), [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    failures = [0.0, 0.0, 59.9, 60.0]

    async def work() -> None:
        if failures:
            now[0] += failures.pop(0)
            raise OSError

    await Background(lambda: 0.0, naps.sleep).keep("rules", work)
    assert [1, 2, 4, 1] == naps.taken


async def test_a_stop_ends_all_tasks_and_waits_for_them() -> None:
    """Including tasks in a pause, and tasks that clean up."""
    cleaned: list[str] = []
    running = asyncio.Event()

    async def forever() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("forever")

    background = Background()
    tasks = [background.keep("forever", forever), background.keep("failing", Work(*[OSError()] * 9))]
    await running.wait()
    await background.stop()
    assert (["forever"], [True, True]) == (cleaned, [task.cancelled() for task in tasks])


async def test_a_stop_ends_a_task_that_swallows_its_first_cancellation() -> None:
    """redis-py may swallow one while it waits for a reply. Otherwise, the process would never end."""
    cancelled = 0

    async def work() -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled == 2:
                    raise

    background = Background()
    background.keep("deaf", work)
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await background.stop()
    assert 2 == cancelled


async def test_the_failures_of_a_task_are_exported_as_0_from_the_start() -> None:
    """If a series begins with 1, Prometheus cannot see the increase."""
    background = Background()
    background.expect("journal")
    background.keep("rules", Work())
    assert {"journal": 0, "rules": 0} == dict(background.failures())
    await background.stop()
