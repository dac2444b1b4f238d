"""A scenario from the command line to the report, and books that do not match."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import reconciliation, stages
from bench.results import WIDE, Results, named
from bench.servers import Server, nothing
from testing.redis_servers import RedisServer
from testing.service import REPOSITORY
from testing.waiting import PATIENCE


def test_a_scenario_is_measured_and_its_books_are_closed(tmp_path: Path) -> None:
    """Half a second of mixed traffic has a rate, percentiles, CPU and no errors, and the run is in the
    report.
    """
    written = tmp_path / "results.json"
    name = named("native", "memory", "mixed", WIDE)
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--only", name, "--seconds", "0.5", "--json", str(written)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    results = Results.load(written)
    (run,) = results.runs
    assert name == run.name
    assert run.decisions > 100
    assert 0 < run.latency.p50 <= run.latency.p99 <= run.latency.worst
    assert run.server_cpu > 0
    assert {"errors": 0, "refused": 0}.items() <= run.extra.items()
    assert "| native, memory | mixed | 4 × 25 |" in done.stdout


def test_a_closed_loop_that_runs_out_of_requests_fails() -> None:
    """Its rate would be that of a shorter run in which ever fewer connections are busy."""
    with nothing("native") as server:
        load = (sys.executable, "-m", "bench.replay", str(server.port), "1", "4", "mixed", "60", "--most=10")
        done = subprocess.run(
            load, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert (1, "ready\n") == (done.returncode, done.stdout)
    assert "all prepared requests were answered before the end" in done.stderr


def test_every_stage_of_a_decision_is_timed() -> None:
    """No stage is skipped, and their sum is less than the time of a call on a slow machine."""
    found = stages.measure("charge", 0)
    assert {*stages.STAGES, stages.OF_NOTHING} == set(found)
    assert all(0 < microseconds < 10_000 for microseconds in found.values()), found


def test_the_cost_of_amendments_is_measured_by_turns() -> None:
    """A decision is measured without amendments, with 10,000 of them, and with as many rules."""
    found = stages.amended_cost(0)
    assert ["without", "with", "own", "rules"] == list(found)
    assert all(0 < microseconds < 10_000 for microseconds in found.values()), found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server whose counters are in a Redis that the test has written."""
    with RedisServer() as redis:
        counters = {"team=a}:hour:x": "3", "team=a}:hour:y": "2", "team=a}:day:x": "5"}
        redis.cli("MSET", *(word for key, value in counters.items() for word in (f"{{bench|{key}", value)))
        redis.cli("SET", "{other|team=b}:day:x", "9")
        yield Server("test", 0, redis=[redis])


def test_counts_of_successive_windows_are_summed(server: Server) -> None:
    """There are five hits in the hour, although a new hour began, and five in the day. Other domains are
    ignored.
    """
    assert 2 == reconciliation.check_exactly(server, {("team", "a"): 5})


@pytest.mark.parametrize(
    "charged, wrong",
    [
        ({("team", "a"): 6}, "differ"),
        ({("team", "a"): 4}, "differ"),
        ({}, "differ"),
        ({("team", "a"): 5, ("team", "b"): 1}, "without a counter"),
    ],
    ids=["lost", "too much", "from nowhere", "never written"],
)
def test_a_count_that_differs_from_the_charges_is_detected(
    server: Server, charged: dict[reconciliation.Bucket, int], wrong: str
) -> None:
    """Too few hits, too many, and a bucket that only one side has are all reported."""
    with pytest.raises(AssertionError, match=wrong):
        reconciliation.check_exactly(server, charged)
