"""The log lines about a Redis that answers but is misconfigured."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.watchdog import RedisWatchdog, clock, eviction, version
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A separate Redis, because its settings are changed."""
    with RedisServer() as server:
        yield server


class Watching:
    """A watch of one store, and its log."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        self.store = RedisStore(connect(url, username=username, password=password))
        self.ahead = 0.0
        self.long_windows = False
        self.watch = RedisWatchdog(lambda: time.time() - self.ahead, lambda: self.long_windows)
        self.watch.add(self.store)

    async def said(self) -> list[EventDict]:
        """Check once, and return the log lines."""
        with structlog.testing.capture_logs() as logs:
            await self.watch.check()
        return [log for log in logs if log["log_level"] != "debug"]


@pytest.fixture
async def watching(server: RedisServer) -> AsyncIterator[Watching]:
    watching = Watching(server.url)
    yield watching
    await watching.store.close()


async def test_nothing_is_logged_about_a_healthy_redis(watching: Watching) -> None:
    """It runs on this machine, so the clocks agree."""
    assert [] == await watching.said()
    assert abs(watching.watch.clock_offset) < 0.5


async def test_eviction_is_logged_once_and_so_is_its_end(watching: Watching, server: RedisServer) -> None:
    """It is not repeated every minute. A policy without a memory limit evicts nothing."""
    server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert [] == await watching.said()
    server.cli("CONFIG", "SET", "maxmemory", "100mb")
    (line,) = await watching.said()
    assert ("warning", server.address, "allkeys-lru") == (line["log_level"], line["server"], line["policy"])
    assert "set maxmemory-policy noeviction" in line["event"]
    assert [] == await watching.said()
    server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    (line,) = await watching.said()
    assert ("info", "Redis is well again: eviction") == (line["log_level"], line["event"])
    server.cli("CONFIG", "SET", "maxmemory", "0")


async def test_a_redis_without_persistence_is_reported_if_windows_are_long(
    watching: Watching, server: RedisServer
) -> None:
    """Either kind of persistence suffices, and short windows need none."""
    assert [] == await watching.said()
    watching.long_windows = True
    (line,) = await watching.said()
    assert "warning" == line["log_level"]
    assert "Redis keeps nothing on disk" in line["event"]
    server.cli("CONFIG", "SET", "save", "3600 1")
    assert ["Redis is well again: persistence"] == [line["event"] for line in await watching.said()]
    server.cli("CONFIG", "SET", "save", "")
    assert ["warning"] == [line["log_level"] for line in await watching.said()]
    server.cli("CONFIG", "SET", "appendonly", "yes")
    assert ["info"] == [line["log_level"] for line in await watching.said()]
    server.cli("CONFIG", "SET", "appendonly", "no")


async def test_a_redis_for_seconds_needs_no_persistence(server: RedisServer) -> None:
    """Whatever the rules are: its windows are too short to be worth keeping."""
    watch = RedisWatchdog(time.time, lambda: True)
    store = RedisStore(connect(server.url))
    watch.add(store, keeps_days=False)
    with structlog.testing.capture_logs() as logs:
        assert await watch.check()
    assert [] == logs
    await store.close()


async def test_the_deviation_of_a_wrong_clock_is_reported(watching: Watching) -> None:
    """Ahead or behind."""
    for ahead, text in ((90.5, "90."), (-3.5, "-3.")):  # in the middle: Redis may answer late
        watching.ahead = ahead
        said = await watching.said()
        assert abs(watching.watch.clock_offset - ahead) < 0.5
        assert all(line["ahead"].startswith(text) for line in said)
    watching.ahead = 0.0
    assert ["Redis is well again: clock"] == [line["event"] for line in await watching.said()]


async def test_a_redis_that_has_lost_its_counters_is_reported(tmp_path: Path) -> None:
    """No other sign would show it. A restart that keeps the counters is not reported."""
    with RedisServer("--dir", str(tmp_path)) as server:
        watching = Watching(server.url)
        assert [] == await watching.said()
        server.cli("SET", "counter", "1")
        server.cli("SAVE")
        server.stop()
        server.start()
        # the first check meets the broken connection
        assert [[], []] == [await watching.said(), await watching.said()]
        server.cli("FLUSHALL")
        (tmp_path / "dump.rdb").unlink(missing_ok=True)
        server.stop()
        server.start()
        assert [] == await watching.said()
        (line,) = await watching.said()
        assert "error" == line["log_level"]
        assert "came back empty" in line["event"]
        assert ["info"] == [line["log_level"] for line in await watching.said()]
        await watching.store.close()


async def test_a_lost_append_only_file_is_reported(tmp_path: Path) -> None:
    """For example, if a volume ends with its pod. It is reported even if keys were written before the check.
    A restart that keeps the file is not reported.
    """
    with RedisServer("--dir", str(tmp_path), "--appendonly", "yes") as server:
        watching = Watching(server.url)
        watching.long_windows = True
        assert [] == await watching.said()
        server.stop()
        server.start()
        await watching.said()  # the first check meets the broken connection
        assert [] == await watching.said()
        assert 0 < int(server.cli("TTL", watching.watch._markers[server.address])) <= 86_400
        server.stop()
        shutil.rmtree(tmp_path / "appendonlydir", ignore_errors=True)
        (tmp_path / "appendonly.aof").unlink(missing_ok=True)
        server.start()
        server.cli("SET", "another", "1")
        lines = [*await watching.said(), *await watching.said()]
        assert ["error"] == [line["log_level"] for line in lines]
        assert "came back empty" in lines[0]["event"]
        assert ["info"] == [line["log_level"] for line in await watching.said()]
        await watching.store.close()


async def test_each_server_of_a_cluster_is_marked_in_a_slot_of_its_own(redis_cluster: RedisCluster) -> None:
    """A server that refuses writes is not marked."""
    store = ClusterStore(lambda address: at_address(address, Link()), redis_cluster.addresses(), prefix="w:")
    await store.start()
    watch = RedisWatchdog(time.time, lambda: True)
    watch.add(store)
    redis_cluster.configure("appendonly", "yes")
    full = redis_cluster.primaries()[0]
    full.cli("CONFIG", "SET", "maxmemory", "1")
    try:
        assert await watch.check()
        others = {server.address for server in redis_cluster.primaries()[1:]}
        assert others == set(watch._markers)
        for address, key in watch._markers.items():
            assert key.startswith("w:lane:watch-")
            assert "1" == redis_cluster.at(int(address.rpartition(":")[2])).cli("GET", key)
    finally:
        full.cli("CONFIG", "SET", "maxmemory", "0")
        redis_cluster.configure("appendonly", "no")
        await store.close()


async def test_missing_permissions_of_the_watch_are_logged_once(server: RedisServer) -> None:
    """For users without INFO and TIME, and without CONFIG."""
    server.cli("ACL", "SETUSER", "blind", "reset", "on", ">x", "~*", "+ping")
    server.cli("ACL", "SETUSER", "short", "reset", "on", ">x", "~*", "+ping", "+info", "+time")
    expected = {
        "blind": [
            "Redis does not report its time (TIME)",
            "Redis does not report its version, nor whether it evicts (INFO)",
        ],
        "short": ["Redis has no append-only file, and does not report whether it saves (CONFIG GET)"],
    }
    for user, lines in expected.items():
        watching = Watching(f"redis://{server.address}", user, "x")
        watching.long_windows = True
        said = await watching.said()
        assert [("info", line) for line in lines] == [(line["log_level"], line["event"]) for line in said]
        assert [] == await watching.said()
        await watching.store.close()


async def test_an_unreachable_redis_is_not_logged_by_the_watch() -> None:
    """Other log lines report it. The watch checks it when it is back."""
    with RedisServer() as server:
        watching = Watching(server.url)
        server.stop()
        assert [] == await watching.said()
        assert not await watching.watch.check()
        server.start()
        assert await watching.watch.check()
        await watching.store.close()


async def test_every_primary_of_a_cluster_is_checked(redis_cluster: RedisCluster) -> None:
    """Each is named. They are unknown until the Cluster is reached."""
    store = ClusterStore(lambda address: at_address(address, Link()), redis_cluster.addresses())
    watch = RedisWatchdog(time.time, lambda: True)
    watch.add(store)
    assert not await watch.check()
    assert await store.time() is None
    await store.start()
    assert abs(time.time() - (await store.time() or 0)) < 2
    with structlog.testing.capture_logs() as logs:
        assert await watch.check()
    await store.close()
    assert {server.address for server in redis_cluster.primaries()} == {log["server"] for log in logs}


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16 is too old: 6.2 or newer is needed"),
        ({"redis_version": "6.2.0"}, ""),
        ({"redis_version": "7.0.15"}, ""),
        ({"redis_version": "10.0"}, ""),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, ""),
        (
            {"redis_version": "7.2.4", "valkey_version": "7.0.0"},
            "Valkey 7.0.0 is too old: 7.2 or newer is needed",
        ),
        ({"redis_version": "255.255.255"}, ""),
        ({}, ""),
        ({"redis_version": "unstable"}, ""),
    ],
)
def test_a_server_that_is_too_old_is_named_with_its_version(info: dict[str, str], message: str) -> None:
    """It is an error, because each call with an unknown command will fail."""
    assert ("error", message) == (version(info).level, version(info).message)


def test_an_eviction_policy_matters_only_with_a_memory_limit() -> None:
    """INFO has both. A server that reports neither is considered correct."""
    policies = ["noeviction", "volatile-ttl", "allkeys-lfu"]
    found = [bool(eviction({"maxmemory_policy": policy, "maxmemory": 1}).message) for policy in policies]
    assert [False, True, True] == found
    assert "" == eviction({"maxmemory_policy": "volatile-lru", "maxmemory": 0}).message
    assert "" == eviction({}).message


def test_a_clock_may_deviate_by_a_second() -> None:
    """In either direction."""
    assert [True, False, False, True] == [bool(clock(offset).message) for offset in (-1.1, -1.0, 1.0, 1.1)]
