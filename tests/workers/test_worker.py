"""A worker that does not answer, and the pauses between starts of a worker that ends repeatedly."""

from __future__ import annotations

import asyncio
import signal

import pytest

from ratelimit_service.workers.supervisor import Pauses, may_join
from ratelimit_service.workers.worker import Worker
from ratelimit_service.workers.worker_link import Hello
from testing.waiting import PATIENCE, until

HELLO = Hello(0, 2, "host-1", {}, -1, -1)
CONNECTED = """
import asyncio, signal, socket, sys
from ratelimit_service.workers.link import Link

async def main():
    answer = None

    async def share(name):
        if name == "metrics" and {fails}:
            raise ValueError("a gauge")

    link = Link({{"share": share}})
    end = socket.socket(fileno=int(sys.argv[1]))
    end.recv(10_000)  # the hello
    await link.open(end)
    link.tell("health", ())
    await asyncio.sleep(0.05)
    {then}

asyncio.run(main())
"""
"""A worker that reports its health."""

SILENT = CONNECTED.format(fails=False, then="signal.pause()")
FAILING = CONNECTED.format(fails=True, then="await asyncio.sleep(3_600)")


def nothing(*_: object) -> None:
    pass


async def test_a_worker_that_does_not_answer_is_unhealthy_and_then_killed() -> None:
    """It does not answer its callers either, and would never end by itself."""
    command = ("-c", SILENT)
    worker = Worker(0, {"health": nothing}, command=command, answers_within=0.01, killed_after=0.05)
    await worker.start(HELLO)
    late: list[bool] = []
    watching = asyncio.create_task(worker.watch(late.append))
    assert -signal.SIGKILL == await asyncio.wait_for(worker.ended(), PATIENCE)
    await watching
    assert late[-1]


async def test_a_worker_whose_metrics_fail_is_alive() -> None:
    """It has answered with the failure: the cause is in its log, and its callers are served."""
    worker = Worker(0, {"health": nothing}, command=("-c", FAILING), killed_after=0.0)
    await worker.start(HELLO)
    late: list[bool] = []
    watching = asyncio.create_task(worker.watch(late.append))
    await until(lambda: late)
    watching.cancel()
    worker.signal(signal.SIGTERM)
    assert -signal.SIGTERM == await asyncio.wait_for(worker.ended(), PATIENCE)
    assert [False] == late


async def test_a_process_that_cannot_be_started_is_an_error_that_the_supervisor_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves no open socket, which would cause a ResourceWarning."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(OSError, match="/nowhere/python"):
        await Worker(0, {}).start(HELLO)


@pytest.mark.parametrize(
    "own, others, expected",
    [
        ([], [[]], True),
        (["redis"], [[]], False),  # it has not reached Redis yet
        (["redis"], [["redis"]], True),  # Redis is away for all, whose failure mode and journal it shares
        (["redis"], [[], ["redis"]], False),
        (["config"], [[]], False),
        (["config"], [["redis"]], False),  # without rules it would let everything pass
        (["config"], [["config"]], True),
        (["config"], [], True),  # nobody else answers
    ],
)
def test_a_worker_that_is_started_again_does_not_make_the_service_unhealthy(
    own: list[str], others: list[list[str]], expected: bool
) -> None:
    """It opens its port only when it is as healthy as the others."""
    workers = [Worker(number, {}) for number in range(len(others) + 2)]
    for worker, unhealthy in zip(workers, [own, *others], strict=False):
        worker.unhealthy = unhealthy
    for worker in workers[1 : len(others) + 1]:
        worker.serving = True
    assert expected is may_join(workers[0], workers)


@pytest.mark.parametrize(
    "lives, expected",
    [
        ((0, 0, 0, 0), [0.2, 0.4, 0.8, 1.6]),  # each time twice as long
        ((0,) * 9, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]),  # at most half a minute
        ((0, 0, 60, 0), [0.2, 0.4, 0.2, 0.4]),  # one that was well for a minute begins anew
    ],
)
def test_a_worker_that_ends_again_and_again_is_started_less_often(
    lives: tuple[float, ...], expected: list[float]
) -> None:
    pauses = Pauses()
    assert expected == [pauses.after(life) for life in lives]
