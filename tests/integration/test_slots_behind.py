"""One address for several servers that refuses calls with keys of several slots (CROSSSLOT)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
import structlog

from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.batch import Batch, result_of
from ratelimit_service.stores.lanes import EVERYWHERE, Lane
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.slots import SLOTS
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from testing.waiting import wait_for

KEYS = [f"{{d|k={number}}}:hour:2026-11-21T08Z" for number in range(30)]


@pytest.fixture(scope="module")
def sharded() -> Iterator[RedisServer]:
    """A server that has all slots, and is therefore a whole Cluster."""
    with RedisServer("--cluster-enabled", "yes") as server:
        server.cli("CLUSTER", "ADDSLOTS", *map(str, range(SLOTS)))
        wait_for("the Cluster is up", lambda: "cluster_state:ok" in server.cli("CLUSTER", "INFO"))
        yield server


async def charge(store: CounterStore, *keys: str) -> list[object]:
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([[Hit(key, 1, ttl=60)] for key in keys], answer.set_result)
    return [
        outcome if isinstance(outcome, Exception) else list(outcome)
        for outcome in await asyncio.wait_for(answer, 15)
    ]


async def applied(store: RedisStore, batch: Batch) -> object:
    """Return the results of a batch."""
    return await asyncio.wait_for(result_of(lambda on_applied: store.apply(batch, on_applied)), 15)


async def test_a_refused_batch_is_sent_by_slot_and_counted_once(sharded: RedisServer) -> None:
    """At once, and with one log line. Later batches are split beforehand."""
    sharded.cli("FLUSHALL")
    redis = RedisStore(connect(sharded.url))
    store = SettlingStore(redis)
    with structlog.testing.capture_logs() as logs:
        await store.start()
        for turn in range(3):
            assert [[turn]] * len(KEYS) == await charge(store, *KEYS)
    assert ["this Redis is sharded behind its address"] == [line["event"].partition(":")[0] for line in logs]
    assert {KEYS[0]: 3} == await store.read_bucket("{d|k=0}")
    assert 0 == store.failures
    await store.close()


async def test_a_batch_that_was_applied_by_slot_is_not_applied_again(sharded: RedisServer) -> None:
    """The register of each slot has its number, so it does not matter whether the batch is sent whole or
    split.
    """
    sharded.cli("FLUSHALL")
    store = RedisStore(connect(sharded.url))
    lane = Lane("lane", [], 1)
    batch = Batch([[Hit(key, 5, ttl=60)] for key in KEYS], EVERYWHERE, lane)
    assert [[0]] * len(KEYS) == await applied(store, batch)
    assert [[5]] * len(KEYS) == await applied(store, batch)
    (part, *_) = store.split(batch.groups) or ()
    assert [[5]] == await applied(store, Batch(part.groups, part.place, lane))
    await store.close()


async def test_all_calls_of_a_batch_travel_together(sharded: RedisServer) -> None:
    """Thirty calls use no more connections than one."""
    store = RedisStore(connect(sharded.url, pool_size=20))
    await applied(store, Batch([[Hit(key, 1, ttl=60)] for key in KEYS]))
    await applied(store, Batch([[Hit(key, 1, ttl=60)] for key in KEYS]))
    assert 1 == len(
        [
            line
            for line in sharded.cli("CLIENT", "LIST").splitlines()
            if "cmd=evalsha" in line or "cmd=eval" in line
        ]
    )
    await store.close()
