"""Measures group commit: the same load with and without it, at several distances from Redis.

    .venv/bin/python -m bench.group_commit

Closed loop, 50 callers, charges of 20 buckets, the service in this process without a transport, a
redis-server on this machine behind a proxy that holds every byte back for half of the round trip in each
direction. Prints decisions a second and script calls a decision; the counters are compared with what was
charged after each run.
"""

from __future__ import annotations

import asyncio
import time

import uvloop

from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.exact_load import TREE, charge
from testing.proxy import Proxy
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

from .printing import say

CALLERS = 50
SECONDS = 3.0


async def measure(server: RedisServer, round_trip: float, *, grouped: bool) -> tuple[float, float]:
    """Measure decisions a second and script calls a decision."""
    server.cli("FLUSHALL")
    server.cli("CONFIG", "RESETSTAT")
    proxy = Proxy(server.port)
    await proxy.start()
    proxy.delay = round_trip / 2
    port = proxy.port if round_trip else server.port
    below = SettlingStore(RedisStore(connect(f"redis://127.0.0.1:{port}", pool_size=CALLERS, timeout=10)))
    store: CounterStore = CoalescingStore(below) if grouped else below
    await store.start()
    service = RateLimitService(store, Metrics(), time.time)
    service.use(TREE)
    until = time.perf_counter() + SECONDS

    async def call(number: int) -> int:
        turns = 0
        while time.perf_counter() < until:
            await service.should_rate_limit(charge(f"t{number % 20}", 1))
            turns += 1
        return turns

    decisions = sum(await asyncio.gather(*map(call, range(CALLERS))))
    calls = next(
        int(line.split("calls=")[1].split(",")[0])
        for line in server.cli("INFO", "commandstats").splitlines()
        if line.startswith("cmdstat_evalsha:")
    )
    counted = 0
    for number in range(20):
        held = await store.read_bucket(f"{{ledger|team=t{number}}}")
        counted += max((count or 0) for count in held.values())
    assert counted == decisions, (counted, decisions)
    await store.close()
    await proxy.stop()
    return decisions / SECONDS, calls / decisions


async def main() -> None:
    """Print the table."""
    with RedisServer() as server:
        say("round trip   grouped   decisions/s   script calls a decision")
        for round_trip in (0.0, 0.001, 0.005):
            for grouped in (False, True):
                rate, calls = await measure(server, round_trip, grouped=grouped)
                say(f"{round_trip * 1000:7.0f} ms   {grouped!s:7}   {rate:11,.0f}   {calls:.3f}")


if __name__ == "__main__":
    uvloop.run(main())
