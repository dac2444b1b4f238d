"""Holds after calls with an unknown outcome, while charges are in the journal, and after the loss of a
primary.

Holds have weaker guarantees than charges: a hold may be lost, or remain until its ttl although its request
has ended. It is never taken twice, and a charge with an id is never counted twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest

from ratelimit_service.amending.secret import hold_ids
from ratelimit_service.core.errors import RateLimitServiceError, StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import OK, Decision, Descriptor, Entry, Request
from ratelimit_service.core.plan import Plan
from ratelimit_service.core.rules.reader import load
from ratelimit_service.service import Answer, RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.batch import Batch, OnApplied, OnEachApplied
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.client import Link, at_address, through_sentinels
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer
from testing.waiting import PATIENCE, until, wait_for

from .conftest import NOW

RULES = """
domain: d
descriptors:
  - {key: team, rate_limit: {unit: day, tokens_per_unit: 1000}, hold: 60}
"""
BUCKET = "{d|team=a}"


class _Lossy:
    """A mixin for a store: each of `faults` fails a call "before" it reaches Redis, or "after" Redis has
    applied it.
    """

    faults: list[str]

    def apply(self, batch: Batch, on_applied: OnApplied) -> None:
        """Apply a batch, or lose the call or its reply."""
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            asyncio.get_running_loop().call_soon(on_applied, StoreError("not sent"))
        elif fault == "after":
            super().apply(batch, lambda outcome: on_applied(StoreError("the answer was lost")))  # type: ignore[misc]
        else:
            super().apply(batch, on_applied)  # type: ignore[misc]

    def apply_each(self, batches: Sequence[Batch], on_applied: OnEachApplied) -> None:
        """Apply batches, each by itself."""
        for number, batch in enumerate(batches):
            self.apply(batch, partial(on_applied, number))


class LossyRedis(_Lossy, RedisStore):
    """A Redis store that loses calls."""


class LossyCluster(_Lossy, ClusterStore):
    """A Cluster store that loses calls."""


class Unobserved:
    """An observer that ignores everything."""

    def decided(self, plan: Plan, decision: Decision) -> None:
        pass

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        pass


class Gateway:
    """A service over the settling layer, with the requests of a gateway. `now` is its clock."""

    def __init__(self, below: LossyRedis | LossyCluster) -> None:
        self.now = NOW
        self.faults = below.faults = []
        self.store = SettlingStore(below, random_share=lambda: 1.0)
        ids = hold_ids()
        ids.use(b"secret")
        self._service = RateLimitService(self.store, Unobserved(), lambda: self.now, ids=ids)
        self._service.use(RuleTree(load([read("rules.yaml", RULES)]).domains))

    async def ask(self, hits: int, brings: str | None = None) -> Decision | None:
        """Return the answer; None for an error."""
        try:
            return await self._service.should_rate_limit(request(hits, brings))
        except StoreError:
            return None

    async def check(self) -> str:
        """Send a check that passes, and return its id."""
        answer = await self.ask(0)
        assert answer is not None
        assert (OK, True) == (answer.code, bool(answer.hold))
        return answer.hold

    async def ask_together(self, *requests: Request) -> None:
        """Send requests in one batch, and return the answers."""
        calls = [_Call(each) for each in requests]
        self._service.submit(calls)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*[call.answered.wait() for call in calls])

    async def settled(self) -> None:
        """Wait until the journal is empty."""
        await until(lambda: not self.store.journal.hits and self.store._recovering is None)

    async def used(self) -> int:
        """Return the count of the counter."""
        return sum(value or 0 for value in (await self.store.read_bucket(BUCKET)).values())

    async def held(self, seconds: int = 0) -> int:
        """Return the held tokens after some seconds."""
        key = f"{BUCKET}:held"
        return (await self.store.read_holds([key], int(self.now) + seconds)).get(key, 0)


class _Call:
    timeout = -1
    gone = False

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answered = asyncio.Event()

    def reply(self, answer: Answer) -> None:
        """See service.Call."""
        self.answered.set()


def request(hits: int, brings: str | None = None) -> Request:
    descriptor = Descriptor((Entry(b"team", b"a"),), hits)
    return Request("d", (descriptor,), returned=() if brings is None else (brings.encode(),))


@pytest.fixture(params=["redis", "cluster"])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.cli("FLUSHALL")
        gateway = Gateway(LossyRedis(connect(server.url, timeout=5.0)))
    else:
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        link = Link(timeout=5.0)
        gateway = Gateway(LossyCluster(lambda to: at_address(to, link), cluster.addresses(), patience=5.0))
    await gateway.store.start()
    yield gateway
    await gateway.store.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_charge_with_an_unknown_outcome_is_counted_once(gateway: Gateway, fault: str) -> None:
    """It ends its hold once. Its id is recognized when the gateway sends it again, before or after it is
    settled.
    """
    name, other = await gateway.check(), await gateway.check()
    gateway.faults.append(fault)
    assert None is await gateway.ask(40, name)
    await gateway.ask(40, name)
    await gateway.settled()
    await gateway.ask(40, name)
    assert (40, 60) == (await gateway.used(), await gateway.held())
    await gateway.ask(40, other)
    assert (80, 0) == (await gateway.used(), await gateway.held())


@pytest.mark.parametrize(("fault", "held"), [("before", 0), ("after", 60)])
async def test_a_check_with_an_unknown_outcome_holds_until_its_ttl_at_most(
    gateway: Gateway, fault: str, held: int
) -> None:
    """No caller has its id, and the service does not send the check again."""
    gateway.faults.append(fault)
    assert None is await gateway.ask(0)
    await gateway.settled()
    assert (held, 0) == (await gateway.held(), await gateway.held(60))
    await gateway.check()
    assert held + 60 == await gateway.held()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_batch_that_is_sent_again_takes_one_hold(gateway: Gateway, fault: str) -> None:
    """The batch also has a charge, which has to be settled; with it, the check goes to Redis again."""
    gateway.faults.append(fault)
    await gateway.ask_together(request(0), request(40, "-"))
    await gateway.settled()
    assert 40 == await gateway.used()
    assert await gateway.held() <= 60
    assert 0 == await gateway.held(60)


async def test_a_charge_that_waits_longer_than_the_ttl_is_counted_once(gateway: Gateway) -> None:
    """Redis is down for 90 seconds, and the gateway sends the charge twice. The id is still known."""
    name = await gateway.check()
    gateway.store.open = True
    for _ in range(2):
        assert None is await gateway.ask(40, name)
    for queue in gateway.store.journal._queues.values():
        for batch in queue:
            batch.kept_at -= 90
    await gateway.settled()
    await gateway.ask(40, name)
    assert 40 == await gateway.used()


async def test_a_failover_keeps_holds_and_charged_ids() -> None:
    """Sentinels promote the replica of a killed primary. Charges made in between are written to it."""
    with RedisSentinels() as sentinels:
        link = Link(timeout=0.5, connect_timeout=0.5)
        gateway = Gateway(LossyRedis(through_sentinels("mymaster", sentinels.addresses(), link)))
        await gateway.store.start()
        first, second, third, _ = [await gateway.check() for _ in range(4)]
        await gateway.ask(40, first)

        def in_step() -> bool:
            counters = sentinels.replica.cli("--scan", "--pattern", f"{BUCKET}:day:*").split()
            return ["40"] == [sentinels.replica.cli("GET", key) for key in counters]

        await asyncio.to_thread(wait_for, "the replica to have the charge", in_step)
        sentinels.primary.kill()
        for _ in range(2):
            await gateway.ask(40, second)
        await asyncio.to_thread(wait_for, "the replica to take over", sentinels.replica.is_primary)
        async with asyncio.timeout(PATIENCE):
            while await gateway.ask(40, first) is None:
                await asyncio.sleep(0.05)
        await gateway.settled()
        await gateway.ask(40, second)
        assert (80, 120) == (await gateway.used(), await gateway.held())
        await gateway.ask(40, third)
        assert (120, 60, 0) == (await gateway.used(), await gateway.held(), await gateway.held(60))
        await gateway.store.close()
