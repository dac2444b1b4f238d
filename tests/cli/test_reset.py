"""`reset` deletes the counters of one bucket in a real Redis, and no others."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from ratelimit_service.stores.redis.slots import slot_of
from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer, free_port
from testing.service import CommandResult, Service

from .conftest import DOMAIN, Command

PREFIXES = (f"p*[{number}]?\\{{x}}" for number in itertools.count())
"""Prefixes that no other test has, and that are all that a pattern of Redis could be mistaken about."""


class Reset(Protocol):
    """Runs `reset DOMAIN ARGUMENTS` on the Redis of the tests, with a prefix."""

    def __call__(self, *arguments: str, **environment: str) -> CommandResult:
        """Return the exit code and the output."""
        ...


@pytest.fixture
def prefix() -> str:
    """The prefix of the keys of this test."""
    return next(PREFIXES)


@pytest.fixture
def counters(redis_server: RedisServer, prefix: str) -> Iterator[dict[str, str]]:
    """The counters of two teams, and keys that resemble those of dba."""
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
    """Run `reset` in the domain of the tests, with the rules and the Redis of the service."""

    def run(*arguments: str, **environment: str) -> CommandResult:
        settings = {
            "REDIS_URL": redis_server.address,
            "CACHE_KEY_PREFIX": prefix,
            "CONFIG_PATH": str(config),
            **environment,
        }
        return command("reset", DOMAIN, *arguments, **settings)

    return run


def left(redis: RedisServer, counters: dict[str, str]) -> dict[str, str]:
    """Return the counters that still exist."""
    values = redis.cli("MGET", *counters).split("\n")
    return {key: value for key, value in zip(counters, values, strict=True) if value}


DBA = ("{cli|team=dba}:minute:2026-11-21T01:00Z", "{cli|team=dba}:year:2026-01-01Z")


def test_all_windows_of_the_bucket_and_nothing_else_are_deleted(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """Their values are printed, so that they can be restored by hand."""
    minute, year = (f"{prefix}{name}" for name in DBA)
    shown = f"deleted {minute}, which held 40\ndeleted {year}, which held 4211\n"
    assert (0, shown, "") == reset("team=dba")
    assert {key: value for key, value in counters.items() if key not in (minute, year)} == left(
        redis_server, counters
    )


def test_a_dry_run_shows_and_deletes_nothing(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """It prints the same lines with "would"."""
    minute, year = (f"{prefix}{name}" for name in DBA)
    shown = f"would delete {minute}, which held 40\nwould delete {year}, which held 4211\n"
    assert (0, shown, "") == reset("team=dba", "--dry-run")
    assert counters == left(redis_server, counters)


def test_values_that_share_a_counter_are_reset_together(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """By the rules, all `files/*` share one bucket; its name must not act as a pattern for other keys."""
    shared = prefix + "{cli|path=files/*}:year:2026-01-01Z"
    assert (0, f"deleted {shared}, which held 5\n", "") == reset("path=files/a")
    assert {key: value for key, value in counters.items() if key != shared} == left(redis_server, counters)


def test_a_reset_is_in_the_audit(
    reset: Reset, redis_server: RedisServer, counters: dict[str, str], prefix: str
) -> None:
    """Author, reason and the values of the counters; dry runs, and resets without counters, are not in the
    audit.
    """
    audit = f"{prefix}{{amendments}}:audit"
    reset("team=dba", "--dry-run")
    reset("team=nobody")
    assert "0" == redis_server.cli("EXISTS", audit)
    options = ("--author", "ana", "--reason", "a runaway job", "--window", "year")
    assert 0 == reset("team=dba", *options).code
    line = redis_server.cli("XRANGE", audit, "-", "+").split("\n")
    fields = dict(zip(line[1::2], line[2::2], strict=True))
    assert ("ana", "a runaway job") == (fields["author"], fields["reason"])
    assert {
        "domain": "cli",
        "descriptor": "team=dba",
        "window": "year",
        "counters": {f"{prefix}{DBA[1]}": 4211},
    } == json.loads(fields["reset"])
    assert 0 == reset("team=dba").code
    assert "2" == redis_server.cli("XLEN", audit)


class Store(Protocol):
    """A Redis of one shape, with the counters of three windows of team=dba, and a marker."""

    settings: dict[str, str]

    def left(self) -> list[str]:
        """Return the remaining counters, in the order of WINDOWS."""
        ...


WINDOWS = {
    "{cli|team=dba}:hour:2026-11-21T01Z": "40",
    "{cli|team=dba}:hour:2026-11-21T01Z:warned-80": "1",
    "{cli|team=dba}:15hour:2026-11-21T00Z": "41",
    "{cli|team=dba}:month:2026-11-01": "4211",
}
HOUR, MARKER, HOURS, MONTH = WINDOWS


@dataclass
class Shape:
    """A kind of Redis; see Store."""

    settings: dict[str, str]
    server: RedisServer

    def left(self) -> list[str]:
        return [key for key in WINDOWS if self.server.cli("EXISTS", key) == "1"]


@pytest.fixture(params=["single", "cluster"])
def store(request: pytest.FixtureRequest, config: Path) -> Iterator[Store]:
    """A store of each kind."""
    settings = {"CONFIG_PATH": str(config)}
    if request.param == "single":
        server: RedisServer = request.getfixturevalue("redis_server")
        settings |= {"REDIS_URL": server.address}
    else:
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        server = cluster.owner(slot_of(HOUR))
        settings |= {"REDIS_TYPE": "CLUSTER", "REDIS_URL": cluster.url}
    server.cli("MSET", *itertools.chain(*WINDOWS.items()))
    yield Shape(settings, server)
    server.cli("DEL", *WINDOWS)


@pytest.mark.parametrize(
    "options, deleted",
    [
        ([], [HOURS, HOUR, MARKER, MONTH]),
        (["--window", "hour"], [HOUR, MARKER]),
        (["--window", "15hour", "--window", "month"], [HOURS, MONTH]),
        (["--spare", "month"], [HOURS, HOUR, MARKER]),
        (["--spare", "month", "--spare", "15hour"], [HOUR, MARKER]),
        (["--window", "hour", "--window", "month", "--spare", "month"], [HOUR, MARKER]),
    ],
    ids=["all", "one", "two", "all but one", "all but two", "both"],
)
def test_windows_are_chosen_and_spared(
    command: Command, store: Store, options: list[str], deleted: list[str]
) -> None:
    """The hour can be reset without the month; a dry run prints what would be deleted."""
    lines = {key: f"{key}, which held {held}" for key, held in WINDOWS.items() if key != MARKER} | {
        MARKER: f"{MARKER}, the marker of a threshold, which may be reported again"
    }
    arguments = ["reset", DOMAIN, "team=dba", *options]
    would = "".join([f"would delete {lines[key]}\n" for key in deleted])
    assert (0, would, "") == command(*arguments, "--dry-run", **store.settings)
    assert list(WINDOWS) == store.left()
    assert (0, would.replace("would delete", "deleted"), "") == command(*arguments, **store.settings)
    assert [key for key in WINDOWS if key not in deleted] == store.left()


def test_a_window_that_counts_nothing_names_those_that_do(command: Command, store: Store) -> None:
    """A day is not among them, and `hour` does not match `15hour`."""
    said = "nothing is counted for {cli|team=dba} in that window, but in 15hour, hour, month\n"
    assert (0, said, "") == command("reset", DOMAIN, "team=dba", "--window", "day", **store.settings)
    assert list(WINDOWS) == store.left()


@pytest.mark.parametrize(
    "name, hint",
    [
        ("hours", "did you mean 'hour'?"),
        ("1hour", "did you mean 'hour'?"),
        ("15 min", "did you mean '15minute'?"),
        ("Month", "did you mean 'month'?"),
        ("dba-hourly", "give it as it stands in the counter's key, such as hour, day or 15minute"),
        ("hour*", "give it as it stands in the counter's key, such as hour, day or 15minute"),
        ("", "give it as it stands in the counter's key, such as hour, day or 15minute"),
    ],
)
@pytest.mark.parametrize("option", ["--window", "--spare"])
def test_an_unknown_window_is_reported(command: Command, option: str, name: str, hint: str) -> None:
    """Before anything is deleted: a misspelt name after --spare would spare nothing."""
    said = f"no window is called '{name}': {hint}\n"
    assert (1, "", said) == command("reset", DOMAIN, "team=dba", option, name)


@pytest.mark.usefixtures("counters")
def test_a_bucket_without_counters_is_reported(reset: Reset, prefix: str) -> None:
    """This is not an error."""
    assert (0, f"nothing is counted for {prefix}{{cli|team=nobody}}\n", "") == reset("team=nobody")


@pytest.mark.usefixtures("counters")
def test_without_rules_the_descriptor_is_taken_as_it_stands(reset: Reset, tmp_path: Path) -> None:
    """If nothing is found, the output says that the rules could give another bucket."""
    gone = str(tmp_path / "gone.yaml")
    assert "" == reset("team=dba", "--dry-run", CONFIG_PATH=gone).err
    code, _, err = reset("path=files/nobody", CONFIG_PATH=gone)
    assert (0, 1) == (code, err.count("\n"))
    assert err.startswith("note: the rules could not be loaded, ")


def test_a_reset_restores_the_budget(
    command: Command, service: Service, redis_server: RedisServer, config: Path
) -> None:
    """A team that has exhausted its budget can continue."""
    ask = ["ask", DOMAIN, r"team=reset\,me: 100%", "--server", service.grpc]
    command(*ask, "--hits", "100")
    assert " 0 of 100 left " in command(*ask).out
    settings = {"REDIS_URL": redis_server.url, "CONFIG_PATH": str(config)}
    code, out, _ = command("reset", DOMAIN, r"team=reset\,me: 100%", **settings)
    assert (0, 1, True) == (code, out.count("\n"), out.endswith("which held 100\n"))
    assert " 100 of 100 left " in command(*ask).out


@pytest.mark.parametrize("environment", [{}, {"BACKEND_TYPE": "memory", "REDIS_URL": "redis:6379"}])
def test_the_memory_store_cannot_be_reached(command: Command, environment: dict[str, str]) -> None:
    """It is inside the serving process."""
    code, out, err = command("reset", DOMAIN, "team=dba", **environment)
    assert (1, "", 1, True) == (code, out, err.count("\n"), err.startswith("the memory store lives inside "))
    assert "--server" in err


@pytest.mark.parametrize("auth", [{}, {"REDIS_AUTH": "ops:hunter2"}], ids=["url", "auth"])
def test_an_unreachable_redis_is_reported_without_its_password(
    command: Command, auth: dict[str, str]
) -> None:
    """The error is one line with the address and without credentials."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}" if auth else f"redis://ops:hunter2@127.0.0.1:{port}"
    code, out, err = command("reset", DOMAIN, "team=dba", REDIS_URL=url, **auth)
    assert (1, "", 1) == (code, out, err.count("\n"))
    assert str(port) in err
    assert not {"hunter2", "ops"} & set(err.replace("@", " ").replace(":", " ").split())


def test_a_wrong_password_is_not_repeated(command: Command) -> None:
    """The error of Redis is shown, the password is not."""
    with RedisServer(password="right") as redis:
        code, out, err = command("reset", DOMAIN, "team=dba", REDIS_URL=f"redis://:hunter2@{redis.address}")
    assert (1, "", 1, False) == (code, out, err.count("\n"), "hunter2" in err)


def test_an_invalid_descriptor_is_reported(reset: Reset) -> None:
    """Before anything is deleted."""
    said = "a descriptor is key=value,key=value; 'team' is not key=value\n"
    assert (1, "", said) == reset("team")


def test_a_bad_setting_is_reported(command: Command) -> None:
    """The error is the same as that of `serve`."""
    code, out, err = command("reset", DOMAIN, "team=dba", BACKEND_TYPE="memcache")
    assert (1, "", 'BACKEND_TYPE="memcache" is not supported: give redis or memory\n') == (code, out, err)
