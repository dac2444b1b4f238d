"""Reloads under calls: every way in which files change, and files that cannot be loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from testing.service import Caller, ConfigMapMount, Service, calling
from testing.waiting import wait_for

from .conftest import rules, write

LOAD_ERRORS = "ratelimit_service_config_load_error"
FILES = ("edited", "renamed", "removed", "broken", "steady")


class Live:
    """A service with a file for each test, and a caller. Each file has the domain of its name."""

    def __init__(self, service: Service, caller: Caller, directory: Path, mount: ConfigMapMount) -> None:
        self.service = service
        self.directory = directory
        self.mount = mount
        self.caller = caller

    def limit(self, domain: str) -> int:
        """The limit in force; 0 without one."""
        return self.caller.limit(domain, "team", "dba")

    def wait_for_limit(self, domain: str, limit: int) -> None:
        """Wait until this limit is in force."""
        wait_for(f"{limit} in {domain}", lambda: self.limit(domain) == limit)

    @property
    def loads(self) -> int:
        """Return how often rules have come into force."""
        return len(self.service.events("configuration loaded"))

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Make calls without a pause, none of which may fail, and expect one change of the rules."""
        failures: list[grpc.RpcError] = []
        calls = 0
        over = threading.Event()

        def call() -> None:
            nonlocal calls
            while not over.is_set():
                try:
                    self.limit("steady")
                except grpc.RpcError as error:
                    failures.append(error)
                calls += 1

        loads = self.loads
        thread = threading.Thread(target=call)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert [] == failures
        assert calls > 1
        wait_for("the log of the load", lambda: self.loads == loads + 1)


@pytest.fixture(scope="module", params=["true", "false"], ids=["watch-root", "watch-directory"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Both values of RUNTIME_WATCH_ROOT, with plain files and with a mounted ConfigMap."""
    root = tmp_path_factory.mktemp("runtime")
    directory = root / "ratelimit" / "config"
    for name in FILES:
        write(directory / f"{name}.yaml", rules(name))
    mount = ConfigMapMount(directory / "mounted", {"mounted.yaml": rules("mounted")})
    environment = {
        "BACKEND_TYPE": "memory",
        "RUNTIME_ROOT": str(root),
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_WATCH_ROOT": request.param,
    }
    with Service(environment) as service, calling(service.grpc) as caller:
        yield Live(service, caller, directory, mount)


def test_an_edited_file_is_loaded(live: Live) -> None:
    """The editor writes the file in place, and in one go."""
    with live.going_on():
        with (live.directory / "edited.yaml").open("r+") as file:
            file.write(rules("edited", 11))
        live.wait_for_limit("edited", 11)


def test_a_file_that_replaces_another_by_a_rename_is_loaded(live: Live) -> None:
    """A rename is atomic, so no reader sees half a file."""
    with live.going_on():
        write(live.directory.parent / "next", rules("renamed", 11)).rename(live.directory / "renamed.yaml")
        live.wait_for_limit("renamed", 11)


def test_a_file_that_is_added_is_loaded(live: Live) -> None:
    """Its domain is limited from then on."""
    assert 0 == live.limit("added")
    with live.going_on():
        write(live.directory / "added.yaml", rules("added", 11))
        live.wait_for_limit("added", 11)


def test_the_rules_of_a_removed_file_are_removed(live: Live) -> None:
    """Other domains stay."""
    assert 10 == live.limit("removed")
    with live.going_on():
        (live.directory / "removed.yaml").unlink()
        live.wait_for_limit("removed", 0)
    assert 10 == live.limit("steady")


def test_an_updated_configmap_is_loaded(live: Live) -> None:
    """`..data` points to another directory, and no file was modified."""
    with live.going_on():
        live.mount.update({"mounted.yaml": rules("mounted", 11)})
        live.wait_for_limit("mounted", 11)


def test_an_invalid_file_changes_nothing_until_it_is_corrected(live: Live) -> None:
    """The load is counted once, each error is logged once and shown on the debug port, and no call fails."""
    service, path = live.service, live.directory / "broken.yaml"
    errors, logged = service.metric(LOAD_ERRORS), len(service.events("configuration refused"))

    def rlconfig() -> str:
        return httpx.get(f"http://{service.debug}/rlconfig", trust_env=False, timeout=60).text

    with live.going_on():
        write(path, rules("broken", 12).replace("year", "fortnight") + "  - value: dba\n")
        wait_for("a load that fails", lambda: service.metric(LOAD_ERRORS) == errors + 1)
        assert 10 == live.limit("broken")
        shown = [line.removeprefix("#   ") for line in rlconfig().splitlines() if line.startswith("#   ")]
        assert [4, 5] == [int(line.split(":")[1]) for line in shown]
        assert "broken.team: unit=YEAR requests_per_unit=10, " in rlconfig()

        write(path, rules("broken", 11))
        live.wait_for_limit("broken", 11)
    assert shown == [event["problem"] for event in service.events("configuration refused")[logged:]]
    assert errors + 1 == service.metric(LOAD_ERRORS)
    assert "#" not in rlconfig()
