"""Twenty callers of a running service over gRPC until it ends, and the answers that they got. They charge,
refund, and check a budget that has nothing left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio

from ratelimit_service.core.ledger.entries import CHARGED, REFUNDED, REFUSED, is_of_ledger
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from testing.redis_servers import RedisServer
from testing.service import COMMAND, Service

RULES = """\
domain: ledger
descriptors:
  - {key: team, rate_limit: {unit: year, tokens_per_unit: 4000000000}, ledger: {}}
  - {key: team, value: full, rate_limit: {unit: year, tokens_per_unit: 0}, ledger: {}}
"""
FULL = "full"
"""The team of which every check is refused."""

WITHOUT_LEDGER = (
    "domain: ledger\ndescriptors: [{key: team, rate_limit: {unit: year, requests_per_unit: 4000000000}}]\n"
)
"""For a version of the service without ledgers."""

CALLERS = 20
TRANSPORTS = ("native", "grpcio")


@dataclass
class Outcome:
    """Hits by team, refunds subtracted: those of answered calls, and the charges and refunds of each caller's
    last call, which got no answer.
    """

    acknowledged: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    unanswered_refunds: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """The number of refused checks."""
    failed: int = 0
    """The number of calls that got an error."""


def charge(team: str, hits: int) -> bytes:
    """Return a serialized request that charges `team`; hits below 0 are a refund, and 0 is a check."""
    request = RateLimitRequest(domain="ledger")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=team.encode())
    descriptor.hits_addend.value = abs(hits)
    descriptor.is_negative_hits = hits < 0
    return request.SerializeToString()


def work(team: str, turn: int) -> tuple[str, int]:
    """Return the team and the hits of a caller's turn. The first is a charge, so no refund exceeds the
    count.
    """
    if turn % 4 == 2:
        return team, -1
    if turn % 4 == 3:
        return FULL, 0
    return team, turn % 5 + 1


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
        async with aio.insecure_channel(service.grpc) as channel:
            method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
            for turn in range(100_000):
                team, hits = work(f"t{number % 4}", turn)
                try:
                    answer = await method(charge(team, hits), timeout=60)
                except aio.AioRpcError:
                    (outcome.unanswered if hits > 0 else outcome.unanswered_refunds)[team] += abs(hits)
                    outcome.failed += 1
                    return
                outcome.acknowledged[team] += hits
                outcome.refused += answer.overall_code == RateLimitResponse.OVER_LIMIT
                if outcome.acknowledged.total() > 2_000:
                    enough.set()

    callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
    await asyncio.wait_for(enough.wait(), 60)
    await end()
    await asyncio.wait_for(asyncio.gather(*callers), 30)
    return outcome


def counted_in(server: RedisServer, *, ledger: bool = True) -> Counter[str]:
    """Return the counts in the store by team. With `ledger`, what the ledgers have must be the same: charges
    minus refunds.
    """
    counted = Counter[str]()
    for key in server.cli("--scan", "--pattern", "{ledger|*").splitlines():
        if not is_of_ledger(key):
            counted[_team(key)] += int(server.cli("GET", key))
    recorded = recorded_in(server, CHARGED)
    recorded.subtract(recorded_in(server, REFUNDED))
    assert recorded == (counted if ledger else Counter())
    return counted


def recorded_in(server: RedisServer, kind: str = REFUSED) -> Counter[str]:
    """Return the sum of the entries of this kind in the ledgers, by team."""
    recorded = Counter[str]()
    for key in server.cli("--scan", "--pattern", "{ledger|*").splitlines():
        if is_of_ledger(key):
            fields = server.cli("HGETALL", key).splitlines()
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                recorded[_team(key)] += int(value) if name.endswith(f":{kind}") else 0
    return recorded


def _team(key: str) -> str:
    return key.partition("team=")[2].partition("}")[0]
