"""The readiness of a process without rules, with missing files, and without domains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testing.service import Service, calling
from testing.waiting import wait_for

from .conftest import probing, rules, serving, write

LOAD_ERRORS = "ratelimit_service_config_load_error"
NOT_READY = (500, "unhealthy: config")
READY = (200, "OK")


def runtime(root: Path, **settings: str) -> dict[str, str]:
    """The environment of a service whose rules are in root/ratelimit/config."""
    return {
        "BACKEND_TYPE": "memory",
        "RUNTIME_ROOT": str(root),
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        **settings,
    }


@pytest.mark.parametrize(
    ("watch_root", "there"),
    [("true", False), ("false", True)],
    ids=["watch-root-missing", "watch-directory-empty"],
)
def test_rules_may_arrive_late_and_stay_in_force_without_their_files(
    tmp_path: Path, watch_root: str, there: bool
) -> None:
    """It is not ready before the first rules.

    Later, a lost volume leaves the rules in force, and is counted.
    """
    directory = tmp_path / "ratelimit" / "config"
    if there:
        directory.mkdir(parents=True)
    with (
        Service(runtime(tmp_path, RUNTIME_WATCH_ROOT=watch_root)) as service,
        calling(service.grpc) as caller,
        probing(service) as probe,
    ):
        assert (NOT_READY, "UNAVAILABLE") == (service.health(), caller.status("d", "team", "dba"))
        assert ("NOT_SERVING", "SERVING") == (serving(probe, "ratelimit"), serving(probe, ""))
        assert (
            f"{directory} (CONFIG_PATH is not set): there is no configuration file"
            == (service.wait_for_event("configuration refused")["problem"])
        )
        write(directory / "a.yaml", rules("d", 7))
        wait_for("ready", lambda: service.health() == READY)
        wait_for("SERVING", lambda: serving(probe, "ratelimit") == "SERVING")
        assert 7 == caller.limit("d", "team", "dba")

        errors = service.metric(LOAD_ERRORS)
        shutil.rmtree(tmp_path / "ratelimit")
        wait_for("a load that fails", lambda: service.metric(LOAD_ERRORS) == errors + 1)
        assert (READY, 7) == (service.health(), caller.limit("d", "team", "dba"))

        write(directory / "a.yaml", rules("d", 8))
        wait_for("the files that came again", lambda: caller.limit("d", "team", "dba") == 8)


def test_a_service_can_be_ready_without_rules(tmp_path: Path) -> None:
    """With FORCE_START_WITHOUT_INITIAL_CONFIG, it gets calls, and fails them until there are rules."""
    environment = runtime(tmp_path, FORCE_START_WITHOUT_INITIAL_CONFIG="true")
    with Service(environment) as service, calling(service.grpc) as caller:
        assert (READY, "UNAVAILABLE") == (service.health(), caller.status("d", "team", "dba"))
        write(tmp_path / "ratelimit" / "config" / "a.yaml", rules("d", 7))
        wait_for("the rules", lambda: caller.status("d", "team", "dba") == "OK")
        assert (READY, 7) == (service.health(), caller.limit("d", "team", "dba"))


def test_a_service_that_needs_a_domain_is_not_ready_without_one(tmp_path: Path) -> None:
    """HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED applies whatever FORCE_START_WITHOUT_INITIAL_CONFIG is."""
    environment = runtime(
        tmp_path,
        FORCE_START_WITHOUT_INITIAL_CONFIG="true",
        HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED="true",
    )
    with Service(environment) as service:
        assert NOT_READY == service.health()
        write(tmp_path / "ratelimit" / "config" / "a.yaml", rules("d"))
        wait_for("ready", lambda: service.health() == READY)


def test_a_missing_path_in_the_configuration_prevents_readiness(tmp_path: Path) -> None:
    """With CONFIG_PATH=a,b, neither is served until both exist: no limit is left out silently."""
    here, gone = write(tmp_path / "here.yaml", rules("here")), tmp_path / "gone"
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": f"{here},{gone}"}
    with Service(environment) as service, calling(service.grpc) as caller:
        assert NOT_READY == service.health()
        assert (
            f"{gone}: cannot be read: No such file or directory"
            == (service.wait_for_event("configuration refused")["problem"])
        )
        write(gone / "later.yaml", rules("later"))
        wait_for("ready", lambda: service.health() == READY)
        assert [10, 10] == [caller.limit(domain, "team", "dba") for domain in ("here", "later")]
