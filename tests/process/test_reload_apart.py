"""A separate process reads rules. The tests kill either process, and check the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.service import Caller, Service, calling
from testing.waiting import wait_for

from ..loading.blocking_file import HeldFile, children, is_gone
from .conftest import rules, write

LOADS = "ratelimit_service_config_load_success"
REFUSED = "configuration refused"
REJECTED = "ratelimit_service_config_rejected"


class Reloading:
    """A service that reads one file of rules."""

    def __init__(self, service: Service, caller: Caller, path: Path) -> None:
        self.service = service
        self.path = path
        self._caller = caller

    @property
    def limit(self) -> int:
        """The limit in force."""
        return self._caller.limit("d", "team", "dba")

    def change(self, limit: int) -> None:
        """Replace the file."""
        write(self.path.with_name("next"), rules("d", limit)).rename(self.path)

    def hold(self) -> tuple[HeldFile, int]:
        """Replace the file by one that blocks its reader, and return the process that reads it."""
        held = HeldFile(self.path)
        wait_for("somebody who reads the file", held.is_being_read)
        (child,) = children(self.service.pid)
        return held, child

    def wait_for_limit(self, limit: int) -> None:
        """Wait until this limit is in force."""
        wait_for(f"a limit of {limit}", lambda: self.limit == limit)


@contextmanager
def started(directory: Path, transport: str) -> Iterator[Reloading]:
    """Start it with a limit of 10."""
    path = write(directory / "d.yaml", rules("d"))
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": str(path), "GRPC_TRANSPORT": transport}
    with Service(environment) as service, calling(service.grpc) as caller:
        yield Reloading(service, caller, path)


@pytest.fixture(scope="module", params=["grpcio", "native"])
def reloading(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reloading]:
    """One service for each transport; a test starts with the rules of the previous one."""
    with started(tmp_path_factory.mktemp("rules"), request.param) as service:
        yield service


def test_calls_are_answered_during_a_load_and_no_change_is_lost(reloading: Reloading) -> None:
    """A change during a load is loaded next. The separate process has no socket, and ends after the load."""
    before, loads = reloading.limit, reloading.service.metric(LOADS)
    held, child = reloading.hold()
    names = [str(each.readlink()) for each in Path(f"/proc/{child}/fd").iterdir()]
    assert before == reloading.limit
    reloading.change(before + 2)
    held.release(rules("d", before + 1))
    reloading.wait_for_limit(before + 2)
    wait_for("two loads", lambda: loads + 2 == reloading.service.metric(LOADS))
    wait_for("its end", lambda: set() == children(reloading.service.pid))
    assert [] == [name for name in names if name.startswith("socket:")]
    assert "fork" not in reloading.service.log


def test_a_killed_reader_changes_nothing_and_the_next_change_is_loaded(reloading: Reloading) -> None:
    """Without memory, the kernel kills the separate process first, and the service continues."""
    before = reloading.limit
    held, child = reloading.hold()
    os.kill(child, signal.SIGKILL)
    wait_for("the refusal", lambda: reloading.service.metric(REJECTED) == 1)
    event = reloading.service.wait_for_event(REFUSED)
    held.close()
    assert "was ended by SIGKILL" in event["problem"]
    assert (before, 1) == (reloading.limit, reloading.service.metric(REJECTED))
    reloading.change(before + 1)
    reloading.wait_for_limit(before + 1)
    wait_for("the metric", lambda: 0 == reloading.service.metric(REJECTED))


@pytest.mark.parametrize("transport, number", [("grpcio", signal.SIGTERM), ("native", signal.SIGKILL)])
def test_the_reader_ends_with_the_service(tmp_path: Path, transport: str, number: signal.Signals) -> None:
    """However the service ends."""
    with started(tmp_path, transport) as reloading:
        held, child = reloading.hold()
        reloading.service.signal(number)
        assert (0 if number is signal.SIGTERM else -number) == reloading.service.ended()
        wait_for("its end", lambda: is_gone(child))
        held.close()
        assert [] == reloading.service.events(REFUSED)
