"""Faults that may lose a bounded number of charges. No charge is counted twice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from testing.exact_load import REPORT, Bench
from testing.redis_servers import RedisServer


async def test_with_appendfsync_everysec_a_killed_redis_loses_at_most_a_second(tmp_path: Path) -> None:
    """Charges of the last second may be lost although they were acknowledged. Nothing is counted twice."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "everysec", "--dir", str(tmp_path)) as server:
        bench = Bench(server.url)
        await bench.start()

        last_second: list[int] = []

        async def counted() -> int:
            held = [await bench.redis.read_bucket(f"{{ledger|team=t{number}}}") for number in range(5)]
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
