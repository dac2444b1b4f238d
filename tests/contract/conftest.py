"""Every store, for the contract suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.slots import slot_of
from ratelimit_service.stores.snapshot import KeptMemoryStore
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer

NOW = 1_795_249_200.0


@dataclass
class Bench:
    """A store under test. `hit` waits for the outcomes, and asserts that they arrive exactly once."""

    store: CounterStore
    name: str
    set_raw: Callable[[str, str], None]
    now: list[float] = field(default_factory=lambda: [NOW])
    slotted: bool = False
    """Whether a group is atomic only within each slot."""

    async def hit(self, *groups: Sequence[Hit]) -> list[Outcome]:
        answers: list[list[Outcome]] = []
        done = asyncio.Event()

        def on_outcomes(outcomes: Sequence[Outcome]) -> None:
            answers.append(list(outcomes))
            done.set()

        self.store.hit(groups, on_outcomes)
        await asyncio.wait_for(done.wait(), 10)
        await asyncio.sleep(0)
        assert 1 == len(answers)
        return answers[0]

    async def counts(self, *hits: Hit) -> list[object]:
        """Return the outcome of one group."""
        (outcome,) = await self.hit(hits)
        assert not isinstance(outcome, Exception), outcome
        return list(outcome)


SetRaw = Callable[[str, str], None]


def in_redis(request: pytest.FixtureRequest) -> tuple[RedisStore, SetRaw]:
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("FLUSHALL")

    def set_raw(key: str, value: str) -> None:
        server.cli("SET", key, value)

    return RedisStore(connect(server.url)), set_raw


def in_cluster(request: pytest.FixtureRequest) -> tuple[ClusterStore, SetRaw]:
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")

    def set_raw(key: str, value: str) -> None:
        assert "OK" == cluster.owner(slot_of(key)).cli("SET", key, value)

    return ClusterStore(
        lambda address: at_address(address, Link(timeout=5.0)), cluster.addresses(), patience=5.0
    ), set_raw


@pytest.fixture(scope="module")
def redis_sentinels() -> Iterator[RedisSentinels]:
    """A primary with sentinels, shared by all tests of a module."""
    with RedisSentinels() as sentinels:
        yield sentinels


@pytest.fixture(
    params=[
        "memory",
        "memory, deferred",
        "memory, coalesced",
        "memory, with snapshots",
        "redis",
        "redis, as it is served",
        "cluster",
        "cluster, as it is served",
    ]
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    now = [NOW]
    if "redis" in request.param or "cluster" in request.param:
        slotted = "cluster" in request.param
        below, set_raw = in_cluster(request) if slotted else in_redis(request)
        served = "served" in request.param
        redis_store = CoalescingStore(SettlingStore(below)) if served else below
        await redis_store.start()
        yield Bench(redis_store, "redis", set_raw, now, slotted)
        await redis_store.close()
        return
    defer = asyncio.get_running_loop().call_soon if "deferred" in request.param else None
    memory = MemoryStore(lambda: now[0], defer=defer)
    if "snapshots" in request.param:
        memory = KeptMemoryStore(lambda: now[0], tmp_path / "counters", 0.001)
        await memory.start()
    store: CounterStore = CoalescingStore(memory) if "coalesced" in request.param else memory
    yield Bench(store, "memory", lambda key, value: memory._counters.__setitem__(key, int(value)), now)
    await store.close()
