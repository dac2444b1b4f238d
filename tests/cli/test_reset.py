"""`reset`: the counters of one bucket are deleted from a real Redis, and no others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from testing.servers import RedisServer, free_port
from testing.service import Ended, Service

from .conftest import DOMAIN, Command

PREFIXES = (f"p*[{number}]?\\{{" for number in itertools.count())
"""Prefixes that no other test has, and that are all that a pattern of Redis could be mistaken about."""


class Reset(Protocol):
    """Runs `reset DOMAIN ARGUMENTS` on the Redis of the tests, with a prefix."""

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        """Return its exit code, and what it has written."""
        ...


@pytest.fixture
def prefix() -> str:
    """What the keys of this test begin with."""
    return next(PREFIXES)


@pytest.fixture
def counters(redis_server: RedisServer, prefix: str) -> Iterator[dict[str, str]]:
    """The counters of two teams, and such as only look like those of dba."""
    names = {
        "{cli|team=dba}:minute:2026-11-21T01:00Z": "40",
        "{cli|team=dba}:year:2026-01-01Z": "4211",
        "{cli|team=dba2}:year:2026-01-01Z": "1",
        "{cli|team=db}:year:2026-01-01Z": "2",
        "{cli|team=dba|model=gpt-x}:year:2026-01-01Z": "3",
        "{cli2|team=dba}:year:2026-01-01Z": "4",
        "{cli|path=files/*}:year:2026-01-01Z": "5",
        "{cli|path=files/a}:year:2026-01-01Z": "6",
    }
    keys = {f"{prefix}{name}": value for name, value in names.items()}
    redis_server.cli("MSET", *itertools.chain(*keys.items()))
    yield keys
    redis_server.cli("DEL", *keys)


@pytest.fixture
def reset(command: Command, redis_server: RedisServer, prefix: str, config: Path) -> Reset:
    """`reset` in the domain of the tests, with the rules and the Redis that the service has."""

    def run(*arguments: str, **environment: str) -> Ended:
        settings = {
            "REDIS_URL": redis_server.address,
            "CACHE_KEY_PREFIX": prefix,
            "CONFIG_PATH": str(config),
            **environment,
        }
        return command("reset", DOMAIN, *arguments, **settings)

    return run


def left(redis: RedisServer, counters: dict[str, str]) -> dict[str, str]:
    """Those of the counters that are still there."""
    values = redis.cli("MGET", *counters).split("\n")
    return {key: value for key, value in zip(counters, values, strict=True) if value}


DBA = ("{cli|team=dba}:minute:2026-11-21T01:00Z", "{cli|team=dba}:year:2026-01-01Z")


def test_all_windows_of_the_bucket_and_nothing_else_are_deleted(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """What they held is shown, so that it can be put back by hand."""
    minute, year = (f"{prefix}{name}" for name in DBA)
    shown = f"deleted {minute}, which held 40\ndeleted {year}, which held 4211\n"
    assert (0, shown, "") == reset("team=dba")
    assert {key: value for key, value in counters.items() if key not in (minute, year)} == left(
        redis_server, counters
    )


def test_a_dry_run_shows_and_deletes_nothing(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """The same lines, in the conditional."""
    minute, year = (f"{prefix}{name}" for name in DBA)
    shown = f"would delete {minute}, which held 40\nwould delete {year}, which held 4211\n"
    assert (0, shown, "") == reset("team=dba", "--dry-run")
    assert counters == left(redis_server, counters)


def test_values_that_share_a_counter_are_reset_together(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """The rules say that all `files/*` count in one bucket; whose name is no pattern for other keys."""
    shared = prefix + "{cli|path=files/*}:year:2026-01-01Z"
    assert (0, f"deleted {shared}, which held 5\n", "") == reset("path=files/a")
    assert {key: value for key, value in counters.items() if key != shared} == left(redis_server, counters)


@pytest.mark.usefixtures("counters")
def test_a_bucket_that_counts_nothing_is_told(reset: Reset, prefix: str) -> None:
    """That is no failure."""
    assert (0, f"nothing is counted for {prefix}{{cli|team=nobody}}\n", "") == reset("team=nobody")


@pytest.mark.usefixtures("counters")
def test_without_rules_the_descriptor_is_taken_as_it_stands(reset: Reset, tmp_path: Path) -> None:
    """And where nothing was found, it is said that the rules may know better."""
    gone = str(tmp_path / "gone.yaml")
    assert "" == reset("team=dba", "--dry-run", CONFIG_PATH=gone).err
    code, _, err = reset("path=files/nobody", CONFIG_PATH=gone)
    assert (0, 1) == (code, err.count("\n"))
    assert err.startswith("note: the rules could not be loaded, ")


def test_what_the_service_counted_is_there_again(
    command: Command, service: Service, redis_server: RedisServer, config: Path
) -> None:
    """A team that has used everything can go on."""
    ask = ["ask", DOMAIN, r"team=reset\,me: 100%", "--server", service.grpc]
    command(*ask, "--hits", "100")
    assert " 0 of 100 left " in command(*ask).out
    settings = {"REDIS_URL": redis_server.url, "CONFIG_PATH": str(config)}
    code, out, _ = command("reset", DOMAIN, r"team=reset\,me: 100%", **settings)
    assert (0, 1, True) == (code, out.count("\n"), out.endswith("which held 100\n"))
    assert " 100 of 100 left " in command(*ask).out


@pytest.mark.parametrize("environment", [{}, {"BACKEND_TYPE": "memory", "REDIS_URL": "redis:6379"}])
def test_the_memory_store_cannot_be_reached(command: Command, environment: dict[str, str]) -> None:
    """It lives in the process that serves."""
    code, out, err = command("reset", DOMAIN, "team=dba", **environment)
    assert (1, "", 1, True) == (code, out, err.count("\n"), err.startswith("the memory store lives inside "))


@pytest.mark.parametrize("auth", [{}, {"REDIS_AUTH": "ops:hunter2"}], ids=["url", "auth"])
def test_a_redis_that_is_gone_is_told_without_its_password(command: Command, auth: dict[str, str]) -> None:
    """One line, that names the place and no credentials."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}" if auth else f"redis://ops:hunter2@127.0.0.1:{port}"
    code, out, err = command("reset", DOMAIN, "team=dba", REDIS_URL=url, **auth)
    assert (1, "", 1) == (code, out, err.count("\n"))
    assert str(port) in err
    assert not {"hunter2", "ops"} & set(err.replace("@", " ").replace(":", " ").split())


def test_a_wrong_password_is_not_repeated(command: Command) -> None:
    """Redis says that it is wrong, and nothing says what it was."""
    with RedisServer(password="right") as redis:
        code, out, err = command("reset", DOMAIN, "team=dba", REDIS_URL=f"redis://:hunter2@{redis.address}")
    assert (1, "", 1, False) == (code, out, err.count("\n"), "hunter2" in err)


def test_a_descriptor_that_is_none_is_told(reset: Reset) -> None:
    """Before anything is deleted."""
    said = "a descriptor is key=value,key=value; 'team' is not key=value\n"
    assert (1, "", said) == reset("team")


def test_a_bad_setting_is_told(command: Command) -> None:
    """As `serve` does."""
    code, out, err = command("reset", DOMAIN, "team=dba", BACKEND_TYPE="memcache")
    assert (1, "", 'BACKEND_TYPE="memcache" is not supported: give redis or memory\n') == (code, out, err)
