"""A transparent proxy that spreads keys over several servers: each bucket is counted on one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from time import time as time_of_the_wall
from typing import NamedTuple

import pytest
import structlog

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.ledger.entries import is_of_ledger
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.batch import Batch, CallFailed, Fate, result_of
from ratelimit_service.stores.lanes import Lane
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.watchdog import RedisWatchdog
from testing.exact_load import Bench
from testing.redis_clients import connect
from testing.redis_proxy import RedisProxy
from testing.redis_servers import RedisServer

BUCKETS = [f"{{d|k={number}}}" for number in range(20)]
WINDOWS = ("hour:2026-11-21T08Z", "day:2026-11-21")


class Spread(NamedTuple):
    """A proxy with several servers."""

    proxy: RedisProxy
    servers: Sequence[RedisServer]

    def flush(self) -> None:
        """Delete all keys on all servers."""
        for server in self.servers:
            server.cli("FLUSHALL")

    def counters(self) -> dict[str, list[int]]:
        """Return the count of each counter on each server that has it."""
        held: dict[str, list[int]] = {}
        for server in self.servers:
            for key in server.cli("--scan", "--pattern", "*}:*").split():
                if not is_of_ledger(key):
                    held.setdefault(key, []).append(int(server.cli("GET", key)))
        return held

    def recorded(self) -> Counter[str]:
        """Return the ledger entries of each team, on all servers."""
        found = Counter[str]()
        for server in self.servers:
            for key in server.cli("--scan", "--pattern", "*}:ledger:*").split():
                fields = server.cli("HGETALL", key).split()
                found[key.partition("team=")[2].partition("}")[0]] += sum(map(int, fields[1::2]))
        return found


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RedisServer]]:
    with RedisServer() as first, RedisServer() as second:
        yield [first, second]


@pytest.fixture(scope="module", params=[False, True], ids=["whole keys", "hash tags"])
def spread(request: pytest.FixtureRequest, servers: list[RedisServer]) -> Iterator[Spread]:
    """Two servers behind Envoy, which hashes whole keys (its default) or hash tags."""
    with RedisProxy(servers, hash_tags=request.param) as proxy:
        yield Spread(proxy, servers)


@pytest.fixture
async def store(spread: Spread) -> AsyncIterator[SettlingStore]:
    spread.flush()
    store = SettlingStore(RedisStore(connect(spread.proxy.url)))
    await store.start()
    yield store
    await store.close()


async def charge(store: CounterStore, *buckets: str, amount: int = 1) -> list[object]:
    """Charge all windows of these buckets in one request, and return the counts."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    hits = [Hit(f"{bucket}:{window}", amount, ttl=60) for bucket in buckets for window in WINDOWS]
    store.hit([hits], answer.set_result)
    (outcome,) = await asyncio.wait_for(answer, 15)
    return [outcome] if isinstance(outcome, StoreError) else list(outcome)


async def test_limits_are_exact_behind_a_proxy(spread: Spread, store: SettlingStore) -> None:
    """Requests with one bucket, with several in any order, and in batches: each counter is on one server, and
    complete.
    """
    for turn in range(4):
        buckets = BUCKETS[turn:] + BUCKETS[:turn]
        assert [turn] * len(BUCKETS) * 2 == await charge(store, *buckets)
    assert [4, 4] == await charge(store, BUCKETS[3])
    held = spread.counters()
    assert {1} == {len(values) for values in held.values()}
    assert 4 * len(BUCKETS) * 2 + 2 == sum(value for (value,) in held.values())
    for server in spread.servers:
        assert len(server.cli("--scan", "--pattern", "*}:*").split()) > 4


async def test_a_proxy_is_detected_and_logged_once(spread: Spread) -> None:
    """At the start. Until the check is done, buckets are already sent separately."""
    store = RedisStore(connect(spread.proxy.url))
    with structlog.testing.capture_logs() as logs:
        assert len(BUCKETS) == len(store.split([[Hit(f"{bucket}:x", 1, ttl=60) for bucket in BUCKETS]]) or ())
        await store.start()
        await store.ping()
        await store.start()
    await store.close()
    assert ["this Redis is a proxy in front of several servers"] == [
        line["event"].partition(":")[0] for line in logs
    ]


async def test_a_proxy_before_one_server_takes_whole_batches(servers: list[RedisServer]) -> None:
    """If it is replaced by a proxy with several servers, that is detected."""
    with RedisProxy(servers[:1]) as one, RedisProxy(servers) as several:
        store = RedisStore(connect(one.url))
        await store.start()
        assert store.split([[Hit("{a}:x", 1, ttl=60), Hit("{b}:x", 1, ttl=60)]]) is None
        store._wire.client.connection_pool.connection_kwargs["port"] = several.port
        store._wire.drop("the proxy is replaced")
        store._found_out -= 3_600
        await store.ping()
        assert 2 == len(store.split([[Hit("{a}:x", 1, ttl=60), Hit("{b}:x", 1, ttl=60)]]) or ())
        await store.close()


async def test_a_batch_that_is_sent_again_is_applied_once(spread: Spread, store: SettlingStore) -> None:
    """Its register is on the server of its bucket."""
    parts = store._below.split([[Hit(f"{bucket}:hour:x", 5, ttl=60) for bucket in BUCKETS]]) or ()
    for found in ([[0]], [[5]]):
        for part in parts:
            batch = Batch(part.groups, part.place, Lane("lane", [], 1))
            assert found == await result_of(partial(store._below.apply, batch))


async def test_a_bucket_is_read_and_deleted_where_it_is_counted(spread: Spread, store: SettlingStore) -> None:
    """Even if the proxy sends a GET of its key to another server, and does not support SCAN."""
    for bucket in BUCKETS:
        await charge(store, bucket, amount=7)
    for bucket in BUCKETS:
        counters = {f"{bucket}:{window}": 7 for window in WINDOWS}
        assert counters == await store.read_bucket(bucket) == await store.delete_counters([*counters])
        assert {} == await store.read_bucket(bucket)
    assert {} == spread.counters()


async def test_ledgers_are_exact_behind_a_proxy(spread: Spread) -> None:
    """For many concurrent callers, with all layers of the service."""
    spread.flush()
    bench = Bench(spread.proxy.url, deadline=10, teams=len(BUCKETS))
    await bench.start()

    async def for_a_while() -> None:
        await asyncio.sleep(0)

    outcome = await bench.run(for_a_while, least=20)
    await bench.close()
    totals = Counter[str]()
    held = spread.counters()
    for key, values in held.items():
        totals[key.partition("team=")[2].partition("}")[0]] += sum(values)
    assert {team: 2 * hits for team, hits in outcome.charged.items()} == totals  # a year and a month
    assert {1} == {len(values) for values in held.values()}
    assert outcome.charged == spread.recorded()


async def test_one_of_several_servers_may_be_down(servers: list[RedisServer]) -> None:
    """Its buckets fail, those of the other servers are answered, and the circuit stays closed. Finally, all
    charges are written.
    """
    away = servers[1]
    with RedisProxy(servers) as proxy:
        spread = Spread(proxy, servers)
        spread.flush()
        store = SettlingStore(RedisStore(connect(proxy.url)))
        await store.start()
        away.stop()
        try:
            answers = [await charge(store, bucket) for _ in range(5) for bucket in BUCKETS]
            failed = sum(isinstance(answer[0], StoreError) for answer in answers)
            assert 0 < failed < len(answers)
            assert not store.open
            assert store.journal.hits > 0
            await store.ping()
        finally:
            away.start()
        async with asyncio.timeout(60):
            while store._recovering is not None:
                await asyncio.wait([store._recovering])
        assert {5} == {sum(values) for values in spread.counters().values()}
        await store.close()


async def test_a_proxy_without_servers_is_unhealthy(servers: list[RedisServer]) -> None:
    """Although it answers PING itself."""
    with RedisServer() as server:
        for others in ([], [servers[0]]):
            with RedisProxy([server, *others]) as proxy:
                store = RedisStore(connect(proxy.url))
                await store.start()
                await store.ping()
                for each in (server, *others):
                    each.stop()
                with pytest.raises(CallFailed) as gone:
                    await store.ping()
                assert gone.value.fate in (Fate.UNCLEAR, Fate.REFUSED)
                await store.close()
                for each in (server, *others):
                    each.start()


async def test_the_time_of_a_proxy_is_read(spread: Spread) -> None:
    """In Envoy's reply to TIME, the second field has all microseconds since 1970."""
    store = RedisStore(connect(spread.proxy.url))
    watch = RedisWatchdog(time_of_the_wall, lambda: False)
    watch.add(store)
    with structlog.testing.capture_logs() as logs:
        assert await watch.check()
    await store.close()
    assert abs(watch.clock_offset) < 0.5
    assert [] == [line for line in logs if "clock" in line["event"]]
