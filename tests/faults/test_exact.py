"""Faults that lose no charge and count none twice: the books are exact after each."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ratelimit_service.core.errors import CounterRefused
from testing.exact_load import REPORT, Bench, Outcome, charge
from testing.proxy import Proxy
from testing.redis_proxy import RedisProxy
from testing.redis_servers import RedisServer
from testing.waiting import until

SECONDS = float(os.environ.get("FAULT_SECONDS", "0.5"))
"""The duration of a fault; `make faults` uses a longer one."""


async def exact(bench: Bench, outcome: Outcome, what: str) -> None:
    """Check that every charge, refund and refusal is in the store once. `what` names the fault in the
    report.
    """
    await bench.balance(outcome)
    REPORT.append((what, outcome))
    assert (0, 0) == (outcome.lost, outcome.doubled), outcome
    assert 0 < min(outcome.refunded.total(), outcome.refused.total())
    assert sum(outcome.answered.values()) > 20


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    bench = Bench(redis_url)
    await bench.start()
    yield bench
    await bench.close()


async def for_a_while(seconds: float = SECONDS) -> None:
    """Let the load continue for this long: a fault takes time, and has no event to wait for."""
    await asyncio.sleep(seconds)


async def test_repeated_script_flush_loses_no_charge(bench: Bench, redis_server: RedisServer) -> None:
    """SCRIPT FLUSH under load."""

    async def fault() -> None:
        for _ in range(20):
            await asyncio.to_thread(redis_server.cli, "SCRIPT", "FLUSH")
            await for_a_while(SECONDS / 20)

    await exact(bench, await bench.run(fault, mixed=True), "SCRIPT FLUSH, 20 times")


@pytest.mark.parametrize("stall", [0.03, 0.3, 1.2, 5.0] if SECONDS > 1 else [0.03, 0.3, 1.2])
async def test_a_suspended_redis_loses_no_charge(
    bench: Bench, redis_server: RedisServer, stall: float
) -> None:
    """SIGSTOP for less than the deadline, for more, and for longer than the timeout of a connection."""

    async def fault() -> None:
        await for_a_while(0.1)
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            await for_a_while(stall)
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        await for_a_while(0.3)

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, f"Redis stopped (SIGSTOP) for {stall:g} s")
    if stall > 0.1:
        assert outcome.answered["UNAVAILABLE"] > 0


@pytest.mark.parametrize("direction", ["replies", "requests"])
async def test_connections_cut_at_any_byte_lose_no_charge(
    redis_server: RedisServer, redis_url: str, direction: str
) -> None:
    """The connection ends after 0, 1, 2 … bytes of a reply or of a request."""
    proxy = Proxy(redis_server.port)
    await proxy.start()
    bench = Bench(f"redis://127.0.0.1:{proxy.port}", books=redis_url)
    await bench.start()

    async def fault() -> None:
        for after in [*range(24), 40, 80, 160, 320]:
            setattr(proxy, f"cut_{direction}_after", after)
            proxy.cuts = 1
            await until(lambda: not (proxy.cuts or bench.settling.journal.hits))

    await exact(bench, await bench.run(fault, mixed=True), f"connections cut at every byte of {direction}")
    await bench.close()
    await proxy.stop()


async def test_cutting_all_connections_repeatedly_loses_no_charge(
    redis_server: RedisServer, redis_url: str
) -> None:
    """A load balancer that is restarted does this."""
    proxy = Proxy(redis_server.port)
    await proxy.start()
    bench = Bench(f"redis://127.0.0.1:{proxy.port}", books=redis_url)
    await bench.start()

    async def fault() -> None:
        for _ in range(10):
            proxy.cut_all()
            await for_a_while(SECONDS / 10)

    await exact(bench, await bench.run(fault, mixed=True), "all connections cut, 10 times")
    await bench.close()
    await proxy.stop()


async def test_a_killed_redis_with_appendfsync_always_loses_no_charge(tmp_path: Path) -> None:
    """kill -9. All acknowledged charges are there afterwards."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with RedisServer(*options) as server:
        bench = Bench(server.url)
        await bench.start()

        async def fault() -> None:
            await for_a_while(0.2)
            os.kill(server.pid, signal.SIGKILL)
            await for_a_while(SECONDS)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await for_a_while(0.2)

        outcome = await bench.run(fault, mixed=True)
        await exact(bench, outcome, f"Redis killed, back after {SECONDS:g} s, appendfsync always")
        assert outcome.answered["UNAVAILABLE"] > 0
        await bench.close()


async def test_a_full_redis_loses_no_charge(bench: Bench, redis_server: RedisServer) -> None:
    """No part of a batch is applied meanwhile; all of it is when there is memory again."""

    async def fault() -> None:
        await for_a_while(0.1)
        await asyncio.to_thread(redis_server.cli, "CONFIG", "SET", "maxmemory", "1")
        try:
            await for_a_while(SECONDS)
        finally:
            await asyncio.to_thread(redis_server.cli, "CONFIG", "SET", "maxmemory", "0")

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, f"Redis out of memory for {SECONDS:g} s")
    assert outcome.answered["UNAVAILABLE"] > 0


async def test_a_read_only_redis_loses_no_charge(bench: Bench, redis_server: RedisServer) -> None:
    """A primary that became a replica answers READONLY."""

    async def fault() -> None:
        await for_a_while(0.1)
        await asyncio.to_thread(redis_server.cli, "REPLICAOF", "127.0.0.1", "1")
        try:
            await for_a_while(SECONDS)
        finally:
            await asyncio.to_thread(redis_server.cli, "REPLICAOF", "NO", "ONE")

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, f"Redis read-only for {SECONDS:g} s")
    assert outcome.answered["UNAVAILABLE"] > 0


async def test_callers_do_not_wait_for_a_slow_redis(redis_server: RedisServer, redis_url: str) -> None:
    """Each direction takes 50 ms. Every caller gets its answer by the deadline, and every charge is
    counted.
    """
    proxy = Proxy(redis_server.port)
    await proxy.start()
    bench = Bench(f"redis://127.0.0.1:{proxy.port}", books=redis_url)
    await bench.start()

    async def fault() -> None:
        proxy.delay = 0.05
        await for_a_while()

    await exact(bench, await bench.run(fault, mixed=True), "100 ms of round trip to Redis")
    await bench.close()
    await proxy.stop()


async def test_a_forbidden_domain_affects_no_other(redis_server: RedisServer, redis_url: str) -> None:
    """Its requests share batches with others, and fail alone."""
    commands = "+evalsha +eval +get +getdel +scan +set +incrby +decrby +hincrby +hgetall +ttl +expire".split()
    redis_server.cli("ACL", "SETUSER", "few", "reset", "on", ">x", "~lane:*", "~{ledger|team=t*", *commands)
    bench = Bench(redis_url.replace("redis://", "redis://few:x@"), deadline=5)
    await bench.start()
    refused = 0

    async def fault() -> None:
        nonlocal refused
        for number in range(200):
            with pytest.raises(CounterRefused):
                await bench.service.should_rate_limit(charge(f"secret{number % 9}", 5))
            refused += 1

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, "keys of 200 requests are forbidden")
    assert (200, 0, False) == (refused, outcome.answered["UNAVAILABLE"], bench.settling.open)
    await bench.close()


async def test_cut_connections_to_a_proxy_lose_no_charge() -> None:
    """There are several servers behind it. Each bucket is settled on its own server."""
    with RedisServer() as first, RedisServer() as second, RedisProxy([first, second]) as envoy:
        proxy = Proxy(envoy.port)
        await proxy.start()
        bench = Bench(f"redis://127.0.0.1:{proxy.port}", books=envoy.url, teams=10)
        bench.ledgers = [first.url, second.url]
        await bench.start()

        async def fault() -> None:
            for after in range(0, 400, 25):
                proxy.cut_replies_after, proxy.cut_requests_after = (
                    (after, None) if after % 50 else (None, after * 10)
                )
                proxy.cuts = 1
                await until(lambda: not (proxy.cuts or bench.settling.journal.hits))

        await exact(
            bench, await bench.run(fault, mixed=True), "connections cut to a proxy before two servers"
        )
        await bench.close()
        await proxy.stop()
