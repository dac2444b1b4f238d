"""The problems that a soak reports, and the two ends of its HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from bench.soak import report
from bench.soak.callers import ABORTED, ABORTED_COST, JSON, STREAM, Books, Callers, Failure
from bench.soak.http1 import Client, Provider
from bench.soak.parts import METRICS, Replica, Sample
from bench.soak.schedule import Fault, SoakResult
from testing.service import Service

MIB = 2**20
NOON = 1_795_249_200.0


def replica(name: str, *, until: float, grows: float = 0.0, code: int = 0) -> Replica:
    """Return a replica that was sampled every five seconds, and whose memory grows by this many MiB a
    minute.
    """
    samples = [
        Sample(at, int((60 + grows * at / 60) * MIB), 40) for at in (5.0 * n for n in range(int(until / 5)))
    ]
    return Replica(name, cast(Service, None), samples, code, dict.fromkeys(METRICS, 0.0))


def soaked() -> SoakResult:
    """Return a soak of ten minutes without problems. In an outage, two requests and a charge failed."""
    books = Books(Counter({JSON: 50, STREAM: 40, ABORTED: 10}), 5, Counter(a=100, b=ABORTED_COST))
    books.failures = [Failure(NOON + 1, NOON + 2, "JSON: status 503"), Failure(NOON + 4, NOON + 7, "…")]
    return SoakResult(
        "native",
        seconds=600,
        books=books,
        held=Counter(a=100, b=ABORTED_COST),
        replicas=[replica("A", until=60), replica("B", until=600)],
        faults=[Fault("Redis is stopped (SIGTERM)", NOON, NOON + 5, charge_errors=3)],
        envoy={"errors": 3, "upstream_cx_total": 9},
    )


def lose(run: SoakResult) -> None:
    run.held["a"] -= 7


def double(run: SoakResult) -> None:
    run.held["c"] = 3


def fail(run: SoakResult) -> None:
    run.books.failures.append(Failure(NOON + 60, NOON + 61, "stream: status 500"))


def fail_a_charge(run: SoakResult) -> None:
    run.envoy["errors"] += 1


def warn(run: SoakResult) -> None:
    run.stray_lines.append("B: Redis is away")


def grow(run: SoakResult) -> None:
    run.replicas[1] = replica("B", until=600, grows=1.0)


def leak_a_descriptor(run: SoakResult) -> None:
    run.replicas[1].samples[-1].descriptors += 9


def crash(run: SoakResult) -> None:
    run.replicas[0].code = 1


def drop(run: SoakResult) -> None:
    run.replicas[1].counted["ratelimit_service_store_journal_dropped"] = 2


def test_a_soak_that_went_well_has_no_problems() -> None:
    """Errors within an outage belong to it."""
    assert [] == report.problems(soaked())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lose, "7 tokens were lost, and 0 counted twice"),
        (double, "0 tokens were lost, and 3 counted twice"),
        (fail, "stream: status 500"),
        (fail_a_charge, "a call of Envoy failed"),
        (warn, "Redis is away"),
        (grow, "replica B grew from"),
        (leak_a_descriptor, "replica B had 40 descriptors open, and then 49"),
        (crash, "replica A ended with 1"),
        (drop, "replica B dropped 2 hits"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_failure_is_reported(spoil: Callable[[SoakResult], None], said: str) -> None:
    run = soaked()
    spoil(run)
    (problem,) = report.problems(run)
    assert said in problem


def test_the_table_has_the_losses() -> None:
    assert "| tokens lost, counted twice | 0, 0 |" in report.table(soaked())


def test_a_process_that_has_ended_is_not_sampled() -> None:
    """A replica that ends while it is replaced is not an error of the soak."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = Replica("A", cast(Service, ended))
    gone.sample(1.0)
    assert [] == gone.samples


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    await provider.start()
    yield provider
    provider.close()


async def test_callers_are_served_as_json_and_streams_and_hang_up_on_some(provider: Provider) -> None:
    """Without a gateway all are served, and the books have the cost of each."""
    callers = Callers(f"127.0.0.1:{provider.port}", rate=5_000)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(callers.run())
        while not all(callers.books.served[kind] > 10 for kind in (JSON, STREAM, ABORTED)):
            await asyncio.sleep(0)
        callers.end()
    books = callers.books
    assert (0, []) == (books.refused, books.failures)
    assert books.charged.total() >= books.served[ABORTED] * ABORTED_COST + books.served[JSON]


async def test_a_connection_that_was_hung_up_on_is_not_used_again(provider: Provider) -> None:
    client = Client(f"127.0.0.1:{provider.port}")
    endless = {"x-mock-tokens": "1", "x-mock-endless": "yes"}
    assert 200 == await client.post("/", endless, b'{"stream": true}', hang_up=True)
    assert 200 == await client.post("/", {"x-mock-tokens": "1"}, b"{}")
    assert 200 == await client.post("/", {"x-mock-tokens": "1"}, b'{"stream": true}')
    client.close()
