"""Two replicas that follow the amendments of one store, an operator, and the load of their callers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import NamedTuple

import pytest

from ratelimit_service.amending.follower import Follower
from ratelimit_service.amending.operations import Attribution, Operations, new_key
from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import ChangeResult, Remove
from ratelimit_service.core.amendments.target import Target, parse
from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.matching import keys
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Descriptor, Entry, Request
from ratelimit_service.core.rules.reader import load
from ratelimit_service.deadlines import Patience
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.client import Link, at_address, through_sentinels
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer
from tests.limiter import NoObserver

RULES = """
domain: d
descriptors:
  - {key: requests, rate_limit: {unit: year, requests_per_unit: 1000000}}
  - {key: budget, rate_limit: {unit: year, tokens_per_unit: 1000000}}
  - key: windows
    rate_limits: [{unit: month, tokens_per_unit: 1000000}, {unit: year, tokens_per_unit: 2000000}]
  - {key: shadow, shadow_mode: true, rate_limit: {unit: year, tokens_per_unit: 1000000}}
  - {key: quota, quota_mode: true, rate_limit: {unit: year, tokens_per_unit: 1000000}}
"""
MILLION = 1_000_000
KINDS = ("requests", "budget", "windows", "shadow", "quota")
TREE = RuleTree(load([read("d.yaml", RULES)]).domains)


class Replica:
    """A replica without a transport. Its store is the first one of `below`, with the layers above it."""

    def __init__(self, below: CounterStore) -> None:
        self.ahead = 0.0
        """Seconds that its clock is ahead."""
        self.settling = SettlingStore(below) if isinstance(below, RedisStore | ClusterStore) else None
        self.store = CoalescingStore(self.settling) if self.settling is not None else below
        self.amendments = Amendments()
        self.service = RateLimitService(
            self.store, NoObserver(), self.now, patience=Patience(otherwise=0.05), amendments=self.amendments
        )
        self.service.use(TREE)
        self.follower = Follower(self.store.amendments, self.amendments, [self.service], lambda: TREE)
        self.operations = Operations(self.store, self.amendments, self.follower, lambda: TREE)
        self.charged: Counter[str] = Counter()
        self._following: asyncio.Task[None] | None = None

    def now(self) -> float:
        """Return the time by its clock."""
        return time.time() + self.ahead

    async def start(self) -> None:
        await self.store.start()
        await self.follower.try_to_follow()
        self._following = asyncio.create_task(self.follower.run())

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        await self.store.close()

    async def poll(self) -> None:
        """Poll the store once more, as it does every quarter of a second
        (tests/amending/test_follower.py).
        """
        while True:
            with suppress(StoreError):  # it has answered too late: the machine may be busy
                return await self.follower.follow()
            await asyncio.sleep(0.01)

    async def ask(self, text: str, hits: int = 0) -> Decision | None:
        """Return the decision on one descriptor; None if the store does not answer. Adds `hits` to
        `charged`.
        """
        key, _, value = text.partition("=")
        self.charged[text] += hits
        entries = (Entry(key.encode(), value.encode()),)
        try:
            return await self.service.should_rate_limit(
                Request("d", (Descriptor(entries, hits),), key=text.encode())
            )
        except StoreError:
            return None

    async def answer_to(self, text: str) -> str:
        """Return the code and the limit of a check, such as `OK of 10`."""
        decision = await self.ask(text)
        if decision is None:
            return "unavailable"
        (status,) = decision.statuses
        return f"{decision.code.name} of {status.limit.amount if status.limit else None}"


async def answered(replica: Replica, text: str) -> str:
    """Return `answer_to` as soon as the store answers in time: the machine may be busy."""
    while (answer_to := await replica.answer_to(text)) == "unavailable":
        await asyncio.sleep(0.01)
    return answer_to


class Fleet(NamedTuple):
    """Two replicas, and an operator at the first of them."""

    replicas: list[Replica]

    @property
    def first(self) -> Replica:
        return self.replicas[0]

    @property
    def second(self) -> Replica:
        return self.replicas[-1]

    async def change(self, text: str, **what: int | str) -> ChangeResult:
        """Override the limit of one target, or top it up if `add` is given."""
        by = Attribution("ana", "launch", new_key())
        operations = self.first.operations
        window = str(what.get("window", ""))
        if "add" in what:
            edit = operations.make_top_up(by, target(text), int(what["add"]), window=window)
        else:
            edit = operations.make_override(by, target(text), int(what["to"]), window=window)
        return await operations.apply(by, [edit])

    async def remove(self, applied: ChangeResult) -> None:
        by = Attribution("ana", "over", new_key())
        await self.first.operations.apply(by, [Remove(edited.id) for edited in applied.edits])

    async def in_force(self, text: str, expected: str) -> None:
        """Check that every replica gives this answer after one poll of the store."""
        for replica in self.replicas:
            await replica.poll()
            assert expected == await answered(replica, text), text
            await asyncio.sleep(0.001)  # in memory nothing else waits, and the load would have no turn

    async def until_answered(self, text: str, expected: str, patience: float = 60.0) -> None:
        """Wait until every replica gives this answer."""
        began = time.monotonic()
        for replica in self.replicas:
            await asyncio.sleep(0.001)  # in memory nothing else waits, and the load would have no turn
            while (seen := await replica.answer_to(text)) != expected:
                assert time.monotonic() < began + patience, (text, seen, expected)
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def load(self, pause: float = 0.005) -> AsyncIterator[None]:
        """Charge every kind of rule on both replicas meanwhile, without a pause."""
        stop = asyncio.Event()

        async def call(replica: Replica, kind: str) -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                await replica.ask(f"{kind}=busy", turn % 7 + 1)
                await asyncio.sleep(pause)

        calls = [asyncio.create_task(call(replica, kind)) for replica in self.replicas for kind in KINDS]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*calls)
            await self.settle()

    async def settle(self) -> None:
        """Wait until every charge is in the store."""
        for replica in self.replicas:
            settling = replica.settling
            if settling is None:
                continue
            async with asyncio.timeout(60):
                await settling._in_flight.drained()
                while settling._recovering is not None:
                    await asyncio.wait([settling._recovering])

    def charged(self, text: str) -> int:
        return sum(replica.charged[text] for replica in {id(each): each for each in self.replicas}.values())

    async def held(self, text: str) -> list[int | None]:
        """Return the counts of a bucket, one for each window."""
        found = await self.first.store.read_bucket(bucket(text))
        return [count for _, count in sorted(found.items())]

    async def check_books(self, taken: Mapping[tuple[str, str], int] = MappingProxyType({})) -> None:
        """Check that each window has every charge of the load exactly once. `taken` is what resets took, by
        kind and window.
        """
        for kind in KINDS:
            text = f"{kind}=busy"
            found = await self.first.store.read_bucket(bucket(text))
            held: Counter[str] = Counter()
            for key, count in found.items():  # two of a month, if it ends during the test
                held[keys.window_of(key)] += count or 0
            for window in ("month", "year") if kind == "windows" else ("year",):
                expected = self.charged(text) - taken.get((kind, window), 0)
                assert expected == held.pop(window, 0), (text, window)
            assert not held, text


def target(text: str) -> Target:
    return parse("d", text)


def bucket(text: str) -> str:
    key, _, value = text.partition("=")
    return keys.bucket("", keys.domain_text("d"), [keys.entry_text(key.encode(), value.encode())])


def stores(request: pytest.FixtureRequest, kind: str) -> list[CounterStore]:
    link = Link(timeout=0.5, connect_timeout=0.5)
    if kind == "memory":
        return [MemoryStore(time.monotonic)]
    if kind == "cluster":
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        return [
            ClusterStore(lambda address: at_address(address, link), cluster.addresses()) for _ in range(2)
        ]
    if kind == "sentinels":
        fleet: RedisSentinels = request.getfixturevalue("sentinels")
        fleet.primary.cli("FLUSHALL")
        return [RedisStore(through_sentinels("mymaster", fleet.addresses(), link)) for _ in range(2)]
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("FLUSHALL")
    return [RedisStore(connect(server.url, timeout=0.5)) for _ in range(2)]


@asynccontextmanager
async def running(*below: CounterStore) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        replicas = [Replica(store) for store in below]
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.close)
        yield Fleet(replicas)
