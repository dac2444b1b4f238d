"""Counters in memory that outlast the process, however it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ratelimit_service.stores.snapshot import read
from testing.service import Caller, Service, calling, run
from testing.waiting import wait_for


@pytest.fixture
def environment(tmp_path: Path, config: str) -> dict[str, str]:
    """Settings for a service that writes its counters 50 times a second."""
    return {
        "CONFIG_PATH": config,
        "MEMORY_SNAPSHOT_PATH": str(tmp_path / "counters"),
        "MEMORY_SNAPSHOT_INTERVAL": "20ms",
    }


def left(caller: Caller) -> int:
    """The remaining budget of the team, of 10."""
    return caller.ask("d", "team", "dba").statuses[0].limit_remaining


def test_a_restart_keeps_every_count(environment: dict[str, str]) -> None:
    """This includes counts of the last moment before SIGTERM, long before the next write is due."""
    rarely = {**environment, "MEMORY_SNAPSHOT_INTERVAL": "1h"}
    with Service(rarely) as service, calling(service.grpc) as caller:
        caller.ask("d", "team", "dba", hits=7)
        assert 0 == service.stop()
    with Service(rarely) as service, calling(service.grpc) as caller:
        assert 3 == left(caller)
        assert [1] == [event["counters"] for event in service.wait_for_events("counters loaded")]


def test_a_kill_loses_at_most_the_last_interval(environment: dict[str, str]) -> None:
    """Written counts are kept, later ones may be lost, and nothing is counted twice."""
    path = Path(environment["MEMORY_SNAPSHOT_PATH"])
    with Service(environment) as service, calling(service.grpc) as caller:
        caller.ask("d", "team", "dba", hits=4)
        wait_for("4 hits in the file", lambda: [4] == [counter.value for counter in read(path).counters])
        caller.ask("d", "team", "dba", hits=2)
        service.signal(signal.SIGKILL)
        assert -signal.SIGKILL == service.ended()
    with Service(environment) as service, calling(service.grpc) as caller:
        assert left(caller) in (6, 4)


def test_an_invalid_snapshot_is_set_aside(environment: dict[str, str]) -> None:
    """The process starts nevertheless."""
    path = Path(environment["MEMORY_SNAPSHOT_PATH"])
    path.write_text("hello")
    with Service(environment) as service, calling(service.grpc) as caller:
        (event,) = [event for event in service.everything() if "set_aside" in event]
        assert ("error", "hello") == (event["level"], Path(event["set_aside"]).read_text())
        assert 10 == left(caller)
        assert 0 == service.metric("ratelimit_service_memory_snapshot_failures")


def test_a_path_that_is_not_writable_stops_the_start(environment: dict[str, str], tmp_path: Path) -> None:
    """One line reports it."""
    path = tmp_path / "missing" / "counters"
    code, out, err = run(
        "serve", environment={**environment, "MEMORY_SNAPSHOT_PATH": str(path), "LOG_LEVEL": "error"}
    )
    assert (1, "", 1) == (code, out, len(err.splitlines()))
    assert err.startswith(f"MEMORY_SNAPSHOT_PATH: counters cannot be kept in {path}: No such file")
