"""A rolling upgrade: each replica is replaced while callers charge, and the books are exact."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from testing.redis_servers import RedisServer

from .callers import FULL, TRANSPORTS, counted_in, counting_in, recorded_in
from .gateway import Gateway


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_rolling_upgrade_counts_every_charge_once(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, transport: str
) -> None:
    """Every caller gets an answer, each old replica exits with 0, and the counts are what was
    acknowledged.
    """
    start = partial(counting_in, redis_server, tmp_path, transport)
    replicas = [await asyncio.to_thread(start) for _ in range(2)]
    gateway = Gateway(*replicas)
    codes = []

    async def replace_all() -> None:
        for place, old in enumerate(tuple(replicas)):
            replicas[place], code = await gateway.replace(old, start)
            codes.append(code)

    try:
        await gateway.call_while(replace_all)
    finally:
        for replica in replicas:
            replica.kill()
    assert [0, 0] == codes
    assert gateway.acknowledged == counted_in(redis_server)
    assert 0 < gateway.refused == recorded_in(redis_server)[FULL]
