"""Amendments while a part of the store, or a clock, fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from ratelimit_service.amending.operations import Attribution, new_key
from ratelimit_service.stores.redis.client import Link, at_address, through_sentinels
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.slots import slot_of
from testing.proxy import Proxy
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer
from testing.waiting import PATIENCE, until, wait_for

from .amended_replicas import KINDS, MILLION, Fleet, Replica, answered, running, target


async def test_a_replica_without_its_store_keeps_its_amendments_and_catches_up(redis_url: str) -> None:
    """A block stays in force. A change that the replica misses is not, and the age of its list is shown.
    Later it catches up.
    """
    port = int(redis_url.rpartition(":")[2])
    proxy = Proxy(port)
    await proxy.start()
    behind = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}", timeout=0.3))
    try:
        async with running(RedisStore(connect(redis_url)), behind) as fleet, fleet.load():
            await fleet.change("budget=evil", to=0)
            await fleet.until_answered("budget=evil", "OVER_LIMIT of 0")
            proxy.target = 1  # an address without a listener
            proxy.cut_all()
            await until(lambda: fleet.second.follower.age_seconds > 1)
            await fleet.change("budget=other", to=0)
            assert "OVER_LIMIT of 0" == await answered(fleet.first, "budget=other")
            assert (1, 2) == (len(fleet.second.amendments), len(fleet.first.amendments))
            assert await fleet.second.answer_to("budget=evil") in ("unavailable", "OVER_LIMIT of 0")
            proxy.target = port
            await until(lambda: len(fleet.second.amendments) == 2)
            await fleet.until_answered("budget=other", "OVER_LIMIT of 0")
            await until(lambda: fleet.second.follower.age_seconds < 1)
        await fleet.settle()
    finally:
        await proxy.stop()


async def a_block_holds(fleet: Fleet, fault: Callable[[], Awaitable[None]]) -> Counter[str]:
    """Count the answers of both replicas for a blocked bucket during a fault."""
    seen: Counter[str] = Counter()
    stop = asyncio.Event()

    async def watch(replica: Replica) -> None:
        while not stop.is_set():
            seen[await replica.answer_to("budget=evil")] += 1
            await asyncio.sleep(0.005)

    watching = [asyncio.create_task(watch(replica)) for replica in fleet.replicas]
    await fault()
    stop.set()
    await asyncio.gather(*watching)
    return seen


async def test_a_step_of_a_clock_ends_a_top_up_on_that_replica_until_it_is_undone(
    in_redis: Fleet,
) -> None:
    """Each replica decides by its own clock. The stored amendments and the counts do not change."""
    by = Attribution("ana", "launch", new_key())
    operations, second = in_redis.first.operations, in_redis.second
    edit = operations.make_top_up(by, target("budget=dba"), 5, until=int(time.time()) + 3_600)
    await in_redis.first.ask("budget=dba", 7)
    await operations.apply(by, [edit])
    await in_redis.until_answered("budget=dba", f"OK of {MILLION + 5}")
    for ahead, limit in ((7_200.0, MILLION), (0.0, MILLION + 5), (-7_200.0, MILLION + 5)):
        second.ahead = ahead
        assert f"OK of {limit}" == await answered(second, "budget=dba")
        assert f"OK of {MILLION + 5}" == await answered(in_redis.first, "budget=dba")
    second.ahead = 0.0
    while (decision := await second.ask("budget=dba")) is None:
        await asyncio.sleep(0.01)  # the store has answered too late: the machine may be busy
    assert MILLION + 5 - 7 == decision.statuses[0].remaining


async def test_a_block_holds_during_a_failover(request: pytest.FixtureRequest) -> None:
    """On both replicas. A change after the failover comes into force, and nothing is counted twice."""
    with RedisSentinels() as sentinels:
        link = Link(timeout=0.5, connect_timeout=0.5)
        below = [RedisStore(through_sentinels("mymaster", sentinels.addresses(), link)) for _ in range(2)]
        async with running(*below) as fleet:
            await fleet.change("budget=evil", to=0)
            await fleet.until_answered("budget=evil", "OVER_LIMIT of 0")
            await asyncio.to_thread(sentinels.primary.wait_for_replica)

            async def fault() -> None:
                sentinels.primary.kill()
                await asyncio.to_thread(wait_for, "the replica to take over", sentinels.replica.is_primary)
                await until(lambda: fleet.first.follower.age_seconds < 0.2)
                await fleet.change("budget=quiet", to=7)
                await fleet.in_force("budget=quiet", "OK of 7")

            async with fleet.load():
                seen = await a_block_holds(fleet, fault)
            assert {"OVER_LIMIT of 0", "unavailable"} >= set(seen), seen
            assert 2 == (await fleet.second.operations.audit())[0].version
            for kind in KINDS:
                for count in await fleet.held(f"{kind}=busy"):
                    assert count is not None and count <= fleet.charged(f"{kind}=busy")


async def test_amendments_survive_the_loss_of_their_server_in_a_cluster(redis_cluster: RedisCluster) -> None:
    """Its replica takes over. The amendments stay in force, and further ones can be made."""
    link = Link(timeout=0.5, connect_timeout=0.5)
    below = [
        ClusterStore(lambda address: at_address(address, link), redis_cluster.addresses()) for _ in range(2)
    ]
    async with running(*below) as fleet:
        await fleet.change("budget=evil", to=0)
        await fleet.until_answered("budget=evil", "OVER_LIMIT of 0")
        slot = slot_of("{amendments}:current")
        owner = redis_cluster.owner(slot)
        await asyncio.to_thread(owner.wait_for_replica)

        async def fault() -> None:
            owner.kill()
            await until(lambda: fleet.second.follower.age_seconds > 0.6)
            await until(lambda: fleet.second.follower.age_seconds < 0.3)
            await fleet.change("budget=quiet", to=7)
            await fleet.in_force("budget=quiet", "OK of 7")

        try:
            async with fleet.load():
                seen = await a_block_holds(fleet, fault)
        finally:
            await asyncio.to_thread(owner.start)
            await asyncio.to_thread(redis_cluster.wait_until_whole)
        assert {"OVER_LIMIT of 0", "unavailable"} >= set(seen), seen


async def test_amendments_survive_a_move_of_their_slot(redis_cluster: RedisCluster) -> None:
    """Under load, with a change during the move. The books are exact."""
    link = Link(timeout=PATIENCE, connect_timeout=PATIENCE)  # no server fails: a busy one is not away
    below = [
        ClusterStore(lambda address: at_address(address, link), redis_cluster.addresses()) for _ in range(2)
    ]
    slot = slot_of("{amendments}:current")
    async with running(*below) as fleet:
        async with fleet.load():
            await fleet.change("budget=evil", to=0)
            source, other = await asyncio.to_thread(redis_cluster.begin_to_move, slot)
            while await asyncio.to_thread(redis_cluster.move_keys, slot, source, other):
                pass
            # All keys have moved, but the slot has not: a new key has no server yet (TRYAGAIN).
            change = asyncio.create_task(fleet.change("budget=quiet", to=7))
            await asyncio.sleep(0.1)
            assert not change.done()
            await asyncio.to_thread(redis_cluster.end_move, slot, other)
            await change
            await fleet.in_force("budget=quiet", "OK of 7")
            await fleet.change("budget=quiet", to=8)
            await fleet.in_force("budget=quiet", "OK of 8")
            await fleet.in_force("budget=evil", "OVER_LIMIT of 0")
        await fleet.check_books()


async def test_amendments_end_with_a_log_line_if_the_store_has_lost_them(
    redis_server: RedisServer,
) -> None:
    """The counters are lost as well."""
    redis_server.cli("FLUSHALL")
    async with running(*[RedisStore(connect(redis_server.url)) for _ in range(2)]) as fleet:
        await fleet.change("budget=quiet", to=7)
        await fleet.until_answered("budget=quiet", "OK of 7")
        redis_server.cli("FLUSHALL")
        await fleet.until_answered("budget=quiet", f"OK of {MILLION}")
        await fleet.change("budget=quiet", to=8)
        await fleet.until_answered("budget=quiet", "OK of 8")
