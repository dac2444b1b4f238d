"""Deployed processes follow the amendments of their store, and reload limits as data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from ratelimit_service.core.amendments.model import Amendment, Change, Put, Remove, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from testing.service import Caller, Service, calling
from testing.waiting import wait_for

from .conftest import rules, write

BLOCK = override(parse("d", "team=dba"), 0)


def apply(url: str, *edits: Put | Remove, key: str) -> None:
    """Change the amendments in a Redis, as any replica does."""

    async def change() -> None:
        store = RedisStore(connect(url))
        try:
            await store.amendments.apply(Change(key, "ana", "launch", edits, int(time.time())))
        finally:
            await store.close()

    asyncio.run(change())


@contextmanager
def replicas(*environments: dict[str, str]) -> Iterator[list[tuple[Service, Caller]]]:
    with ExitStack() as stack:
        services = [stack.enter_context(Service(environment)) for environment in environments]
        yield [(service, stack.enter_context(calling(service.grpc))) for service in services]


def code(caller: Caller) -> int:
    return caller.ask("d", "team", "dba").overall_code


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_amendments_reach_all_replicas_and_new_ones_before_their_first_call(
    transport: str, config: str, redis_url: str
) -> None:
    """Metrics and /rlconfig show what is in force."""
    environment = {"REDIS_URL": redis_url, "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with replicas(environment, environment) as both:
        for _, caller in both:
            assert (1, 10) == (code(caller), caller.limit("d", "team", "dba"))
        apply(redis_url, Put(BLOCK), key="block")
        for service, caller in both:
            wait_for("blocked", lambda caller=caller: code(caller) == 2)  # type: ignore[misc]
            assert 1 == service.metric("ratelimit_service_amendments")
            assert 1 == service.metric("ratelimit_service_amendments_version")
            assert 2 > service.metric("ratelimit_service_amendments_age_seconds")
            page = httpx.get(f"http://{service.debug}/rlconfig", trust_env=False, timeout=60).text
            assert "# amendments: 1 in force, version 1, read " in page
        with replicas(environment) as ((_, caller),):
            assert 2 == code(caller)
        apply(redis_url, Remove(BLOCK.id), key="over")
        for _, caller in both:
            wait_for("let in again", lambda caller=caller: code(caller) == 1)  # type: ignore[misc]


def test_a_replica_is_not_ready_before_it_has_read_the_amendments(
    config: str, redis_server: RedisServer
) -> None:
    """It starts while its store is down. Otherwise, it would let calls pass that an unread amendment
    blocks.
    """
    redis_server.cli("FLUSHALL")
    apply(redis_server.url, Put(BLOCK), key="block")
    redis_server.cli("CONFIG", "SET", "requirepass", "x")
    try:
        with replicas({"REDIS_URL": redis_server.url, "CONFIG_PATH": config}) as ((service, caller),):
            assert 500 == service.health()[0]
            redis_server.cli("-a", "x", "CONFIG", "SET", "requirepass", "")
            wait_for("ready", lambda: service.health()[0] == 200)
            assert 2 == code(caller)
    finally:
        redis_server.cli("-a", "x", "CONFIG", "SET", "requirepass", "")


def test_limits_as_data_are_reloaded_like_rules(tmp_path: Path) -> None:
    """An invalid table leaves the previous one in force, and the log has the line of the mistake."""
    write(tmp_path / "d.yaml", rules("d"))
    table = write(tmp_path / "limits.csv", "domain,descriptor,limit\nd,team=dba,7\n")
    with replicas({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(tmp_path)}) as ((service, caller),):
        assert (7, 10) == (caller.limit("d", "team", "dba"), caller.limit("d", "team", "ops"))
        assert 1 == service.wait_for_event("configuration loaded")["limits"]
        write(table, "domain,descriptor,limit\nd,team=dba,8\nd,team=d*,9\n")
        wait_for("8", lambda: caller.limit("d", "team", "dba") == 8)
        assert 9 == caller.limit("d", "team", "dev")
        write(table, "domain,descriptor,limit\nd,team=dba,many\n")
        refused = service.wait_for_event("configuration refused")
        assert str(refused["problem"]).startswith(f"{table}:2: limit: must be a whole number")
        assert 8 == caller.limit("d", "team", "dba")
        page = httpx.get(f"http://{service.debug}/rlconfig", trust_env=False, timeout=60).text
        assert "# domain d: limits as data: 2" in page


def test_ten_thousand_limits_are_reloaded_while_calls_are_answered(tmp_path: Path) -> None:
    """No call fails meanwhile. tests/loading/test_rulebook.py counts the turns that the event loop has
    between them.
    """
    write(tmp_path / "d.yaml", rules("d"))
    lines = [f"d,team=t{number},{number + 1}\n" for number in range(10_000)]
    table = write(tmp_path / "limits.csv", "domain,descriptor,limit\n" + "".join(lines))
    with replicas({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(tmp_path)}) as ((service, caller),):
        assert 10_000 == caller.limit("d", "team", "t9999")
        write(table, "domain,descriptor,limit\n" + "".join(lines[:-1]) + "d,team=t9999,5\n")
        wait_for("5", lambda: caller.limit("d", "team", "t9999") == 5)
        assert 2 == len(service.wait_for_events("configuration loaded", 2))


def test_amendments_of_the_memory_store_outlast_the_process(tmp_path: Path, config: str) -> None:
    """They are in the snapshot of the counters."""
    file = tmp_path / "counters"
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "MEMORY_SNAPSHOT_PATH": str(file)}
    asyncio.run(_snapshot(file, BLOCK))
    with replicas(environment) as ((service, caller),):
        assert 2 == code(caller)
        assert 0 == service.stop()
    with replicas(environment) as ((service, caller),):
        assert 2 == code(caller)


async def _snapshot(file: Path, amendment: Amendment) -> None:
    from ratelimit_service.stores.snapshot import KeptMemoryStore

    store = KeptMemoryStore(time.monotonic, file, 60.0)
    await store.start()
    await store.amendments.apply(Change("key", "ana", "launch", (Put(amendment),), 1))
    await store.close()
