"""The service itself is stopped while callers charge: what it acknowledged is in the store, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from grpc import aio

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from tests.servers import RedisServer
from tests.service import Service

RULES = (
    "domain: ledger\ndescriptors: [{key: team, rate_limit: {unit: year, requests_per_unit: 4000000000}}]\n"
)


def charge(team: str, hits: int) -> bytes:
    request = RateLimitRequest(domain="ledger")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=team.encode())
    descriptor.hits_addend.value = hits
    return request.SerializeToString()


async def test_a_stop_under_load_loses_nothing_that_was_acknowledged(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """SIGTERM while twenty callers charge: each call is either answered and counted, or refused and not counted."""
    (tmp_path / "rules.yaml").write_text(RULES)
    service = Service(
        {"CONFIG_PATH": str(tmp_path), "BACKEND_TYPE": "redis", "REDIS_URL": redis_server.address}
    )
    acknowledged: Counter[str] = Counter()
    refused = 0
    enough = asyncio.Event()

    async def caller(number: int) -> None:
        nonlocal refused
        team = f"t{number % 4}"
        async with aio.insecure_channel(service.grpc) as channel:
            method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
            for turn in range(100_000):
                hits = turn % 5 + 1
                try:
                    await method(charge(team, hits), timeout=20)
                except aio.AioRpcError:
                    refused += 1
                    return
                acknowledged[team] += hits
                if acknowledged.total() > 2_000:
                    enough.set()

    callers = [asyncio.create_task(caller(number)) for number in range(20)]
    await asyncio.wait_for(enough.wait(), 60)
    code = await asyncio.to_thread(service.stop)
    await asyncio.wait_for(asyncio.gather(*callers), 30)

    assert 0 == code
    assert 20 == refused
    counted = Counter[str]()
    for key in redis_server.cli("--scan", "--pattern", "{ledger|*").splitlines():
        counted[key.partition("team=")[2].partition("}")[0]] += int(redis_server.cli("GET", key))
    assert acknowledged == counted
