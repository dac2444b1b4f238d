"""Faults that may lose something: how much, at the most, and never that anything is counted twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

from grpc import aio

from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from tests.faults.ledger import REPORT, Bench
from tests.faults.test_process import RULES, charge
from tests.servers import RedisServer
from tests.service import Service


async def test_with_appendfsync_everysec_a_killed_redis_loses_a_second_at_most(tmp_path: Path) -> None:
    """What it had acknowledged in the last second may be gone; nothing is counted twice."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "everysec", "--dir", str(tmp_path)) as server:
        bench = Bench(server.url)
        await bench.start()

        last_second: list[int] = []

        async def counted() -> int:
            held = [await bench.redis.look(f"{{ledger|team=t{number}}}") for number in range(5)]
            return sum(count or 0 for counters in held for count in counters.values())

        async def fault() -> None:
            await asyncio.sleep(0.3)
            before = await counted()
            await asyncio.sleep(1.0)
            last_second.append(await counted() - before)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(0.2)

        outcome = await bench.run(fault)
        await bench.balance(outcome)
        REPORT.append(("Redis killed, appendfsync everysec", outcome))
        assert 0 == outcome.doubled
        assert outcome.lost <= last_second[0]
        await bench.close()


async def test_a_killed_service_loses_what_it_had_not_acknowledged(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """SIGKILL under load: every charge that was answered is in the store, and beyond it at most what was in hand."""
    (tmp_path / "rules.yaml").write_text(RULES)
    service = Service(
        {"CONFIG_PATH": str(tmp_path), "BACKEND_TYPE": "redis", "REDIS_URL": redis_server.address}
    )
    acknowledged: Counter[str] = Counter()
    in_hand: Counter[str] = Counter()
    enough = asyncio.Event()

    async def caller(number: int) -> None:
        team = f"t{number % 4}"
        async with aio.insecure_channel(service.grpc) as channel:
            method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
            for turn in range(100_000):
                hits = turn % 5 + 1
                try:
                    await method(charge(team, hits), timeout=20)
                except aio.AioRpcError:
                    in_hand[team] += hits
                    return
                acknowledged[team] += hits
                if acknowledged.total() > 2_000:
                    enough.set()

    callers = [asyncio.create_task(caller(number)) for number in range(20)]
    await asyncio.wait_for(enough.wait(), 60)
    await asyncio.to_thread(service.kill)
    await asyncio.wait_for(asyncio.gather(*callers), 30)

    counted = Counter[str]()
    for key in redis_server.cli("--scan", "--pattern", "{ledger|*").splitlines():
        counted[key.partition("team=")[2].partition("}")[0]] += int(redis_server.cli("GET", key))
    for team in acknowledged:
        assert acknowledged[team] <= counted[team] <= acknowledged[team] + in_hand[team]
