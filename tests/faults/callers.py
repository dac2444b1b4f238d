"""Twenty callers that charge a running service over gRPC until it ends, and the answers that they got."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio

from ratelimit_service.core.ledger.entries import CHARGED, is_of_ledger
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from testing.redis_servers import RedisServer
from testing.service import COMMAND, Service

RULES = "domain: ledger\ndescriptors: [{key: team, rate_limit: {unit: year, tokens_per_unit: 4000000000}, ledger: {}}]\n"
WITHOUT_LEDGER = (
    "domain: ledger\ndescriptors: [{key: team, rate_limit: {unit: year, requests_per_unit: 4000000000}}]\n"
)
"""For a version of the service without ledgers."""

CALLERS = 20
TRANSPORTS = ("native", "grpcio")


@dataclass
class Outcome:
    """Hits by team: those of answered calls, and those of each caller's last call, which got no answer."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    """The number of calls that got an error."""


def charge(team: str, hits: int) -> bytes:
    """Return a serialized request that charges `team`."""
    request = RateLimitRequest(domain="ledger")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=team.encode())
    descriptor.hits_addend.value = hits
    return request.SerializeToString()


def counting_in(
    server: RedisServer,
    directory: Path,
    transport: str,
    command: Sequence[str] = (*COMMAND, "serve"),
    rules: str = RULES,
) -> Service:
    """Run a service that counts in `server`. Its rules are written to `directory`; `command` starts it."""
    (directory / "rules.yaml").write_text(rules)
    return Service(
        {
            "CONFIG_PATH": str(directory),
            "BACKEND_TYPE": "redis",
            "REDIS_URL": server.address,
            "GRPC_TRANSPORT": transport,
        },
        command=command,
    )


async def charge_until(service: Service, end: Callable[[], Awaitable[object]]) -> Outcome:
    """Charge from all callers at once, and call `end` meanwhile. Each caller stops at its first error."""
    outcome = Outcome()
    enough = asyncio.Event()

    async def caller(number: int) -> None:
        team = f"t{number % 4}"
        async with aio.insecure_channel(service.grpc) as channel:
            method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
            for turn in range(100_000):
                hits = turn % 5 + 1
                try:
                    await method(charge(team, hits), timeout=60)
                except aio.AioRpcError:
                    outcome.unanswered[team] += hits
                    outcome.failed += 1
                    return
                outcome.acknowledged[team] += hits
                if outcome.acknowledged.total() > 2_000:
                    enough.set()

    callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
    await asyncio.wait_for(enough.wait(), 60)
    await end()
    await asyncio.wait_for(asyncio.gather(*callers), 30)
    return outcome


def counted_in(server: RedisServer, *, ledger: bool = True) -> Counter[str]:
    """Return the counts in the store by team. With `ledger`, what the ledgers have must be the same."""
    counted, recorded = Counter[str](), Counter[str]()
    for key in server.cli("--scan", "--pattern", "{ledger|*").splitlines():
        team = key.partition("team=")[2].partition("}")[0]
        if is_of_ledger(key):
            fields = server.cli("HGETALL", key).splitlines()
            recorded[team] += sum(
                [
                    int(value)
                    for name, value in zip(fields[::2], fields[1::2], strict=True)
                    if name.endswith(CHARGED)
                ]
            )
        else:
            counted[team] += int(server.cli("GET", key))
    assert recorded == (counted if ledger else Counter())
    return counted
