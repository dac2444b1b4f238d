"""A Redis Cluster whose slots move and whose primaries are lost, and a failover by Sentinel.

If slots move, the books are exact. A lost primary takes with it the charges that it acknowledged and did not
replicate. Nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from ratelimit_service.stores.redis.client import Link, at_address, through_sentinels
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.slots import SLOTS as ALL_SLOTS
from ratelimit_service.stores.redis.slots import slot_of
from testing.exact_load import REPORT, Bench, Outcome
from testing.proxy import Proxy
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer
from testing.waiting import until, wait_for

TEAMS = 20
SLOTS = sorted({slot_of(f"{{ledger|team=t{number}}}") for number in range(TEAMS)})

LOST_AT_MOST = 200
"""The most hits that a primary may answer in the moment before it is killed; the load is some thousands a
second."""


@pytest.fixture
async def bench(redis_cluster: RedisCluster) -> AsyncIterator[Bench]:
    link = Link(timeout=0.5, connect_timeout=0.5)
    store = ClusterStore(lambda address: at_address(address, link), redis_cluster.addresses())
    bench = Bench(store, teams=TEAMS)
    await bench.start()
    yield bench
    await bench.close()


async def exact(bench: Bench, outcome: Outcome, what: str) -> None:
    """Check that every charge, refund and refusal is there once."""
    await bench.balance(outcome)
    REPORT.append((what, outcome))
    assert (0, 0) == (outcome.lost, outcome.doubled), outcome
    assert 0 < min(outcome.refunded.total(), outcome.refused.total())
    assert sum(outcome.answered.values()) > TEAMS


async def bounded(bench: Bench, outcome: Outcome, what: str) -> None:
    """Check that no charge is there twice, and that few are lost."""
    await bench.balance(outcome)
    REPORT.append((what, outcome))
    assert 0 == outcome.doubled, outcome
    assert outcome.lost <= LOST_AT_MOST, outcome


async def test_moving_slots_lose_no_charge(bench: Bench, redis_cluster: RedisCluster) -> None:
    """Every slot that is charged moves, key by key: ASK meanwhile, MOVED afterwards."""

    async def fault() -> None:
        for slot in SLOTS:
            await asyncio.to_thread(redis_cluster.move, slot)

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, f"{len(SLOTS)} slots of a Cluster move to another server")
    assert outcome.answered["OK"] > 100


async def test_a_slot_that_stays_between_servers_loses_no_charge(
    bench: Bench, redis_cluster: RedisCluster
) -> None:
    """Charges for which no server has all keys are kept until one has them. Buckets of other slots are
    answered.
    """
    slot = SLOTS[0]
    seen: Counter[str] = Counter()

    async def fault() -> None:
        await asyncio.to_thread(
            wait_for,
            "the bucket is charged",
            lambda: redis_cluster.owner(slot).cli("CLUSTER", "COUNTKEYSINSLOT", str(slot)) >= "3",
        )
        source, target = await asyncio.to_thread(redis_cluster.begin_to_move, slot)
        # One of its keys has moved, the others have not: no server can handle all of them (TRYAGAIN).
        await asyncio.to_thread(redis_cluster.move_keys, slot, source, target, 1)
        await until(lambda: bench.settling.journal.hits > 0)
        seen["kept"] = bench.settling.journal.hits
        await until_answered(bench)  # the buckets of other slots
        while await asyncio.to_thread(redis_cluster.move_keys, slot, source, target):
            pass
        await asyncio.to_thread(redis_cluster.end_move, slot, target)

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, "a slot of a Cluster that is half way to another server")
    assert seen["kept"] > 0
    assert outcome.answered["OK"] > TEAMS


async def test_script_flush_on_all_servers_loses_no_charge(bench: Bench, redis_cluster: RedisCluster) -> None:
    """SCRIPT FLUSH under load."""

    async def fault() -> None:
        for _ in range(5):
            for server in redis_cluster.servers:
                await asyncio.to_thread(server.cli, "SCRIPT", "FLUSH")

    await exact(bench, await bench.run(fault, mixed=True), "SCRIPT FLUSH on all servers of a Cluster")


async def test_one_suspended_server_does_not_affect_the_others(
    bench: Bench, redis_cluster: RedisCluster
) -> None:
    """It is suspended for longer than a call waits, but not long enough for a failover."""
    still = redis_cluster.owner(SLOTS[0])

    async def fault() -> None:
        os.kill(still.pid, signal.SIGSTOP)
        try:
            await until(lambda: bench.settling.journal.hits > 0)  # the server is given up for now
            await until_answered(bench)
        finally:
            os.kill(still.pid, signal.SIGCONT)

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, "one of three servers of a Cluster stands still")
    assert outcome.answered["OK"] > TEAMS
    assert not bench.settling.open


async def test_a_suspended_server_does_not_delay_the_journal_of_others(
    bench: Bench, redis_cluster: RedisCluster
) -> None:
    """Calls to another server break meanwhile, and are settled before the first one continues."""
    still = redis_cluster.owner(SLOTS[0])
    other = next(server for server in map(redis_cluster.owner, SLOTS) if server is not still)
    store, journal = store_of(bench), bench.settling.journal

    def waiting(server: RedisServer) -> bool:
        places = [place for place in journal.places() if isinstance(place, int)]
        owners = [store._topology.owners[place] for place in places if place >= 0]
        return any(node is not None and node.address[1] == server.port for node in owners)

    async def fault() -> None:
        os.kill(still.pid, signal.SIGSTOP)
        try:
            await until(lambda: waiting(still))  # the server is given up for now
            for _ in range(3):
                while not waiting(other):  # a call was in flight
                    await asyncio.to_thread(other.cli, "CLIENT", "KILL", "TYPE", "normal")
                await until(lambda: not waiting(other))  # they are written
            assert waiting(still)
        finally:
            os.kill(still.pid, signal.SIGCONT)

    outcome = await bench.run(fault, mixed=True)
    await exact(bench, outcome, "calls to one server break while another one stands still")
    assert not bench.settling.open


async def until_answered(bench: Bench, batches: int = 100) -> None:
    """Wait for so many more answers, from servers other than the unreachable one."""
    before = answered(bench)
    await until(lambda: answered(bench) > before + batches)


def answered(bench: Bench) -> int:
    """Return the number of answered batches."""
    return bench.settling._lanes.number - bench.settling.failures


async def test_a_killed_primary_of_a_cluster_is_replaced_by_its_replica(
    bench: Bench, redis_cluster: RedisCluster
) -> None:
    """Buckets of the other servers are answered meanwhile."""
    slot = SLOTS[0]
    killed = redis_cluster.owner(slot)
    port = killed.port
    redis_cluster.configure("cluster-node-timeout", "1000")

    async def fault() -> None:
        await until_answered(bench)
        killed.kill()
        await until_answered(bench)
        alive = next(server for server in redis_cluster.servers if server is not killed)
        await asyncio.to_thread(
            wait_for, "the replica has taken over", lambda: owner_port(alive, slot) not in (0, port)
        )
        await until(lambda: not any(server.away for server in store_of(bench)._topology.primaries))

    try:
        outcome = await bench.run(fault)
        await bounded(bench, outcome, "a primary of a Cluster is killed, its replica takes over")
        assert outcome.answered["OK"] > 0
        assert not bench.settling.open
    finally:
        await asyncio.to_thread(killed.start)
        redis_cluster.configure("cluster-node-timeout", "5000")
        await asyncio.to_thread(redis_cluster.wait_until_whole)


def store_of(bench: Bench) -> ClusterStore:
    assert isinstance(bench.redis, ClusterStore)
    return bench.redis


def owner_port(server: RedisServer, slot: int) -> int:
    """Return the port of the primary of a slot, as `server` knows it; 0 if it knows none."""
    for line in server.cli("CLUSTER", "NODES").splitlines():
        _, address, flags, _, _, _, _, _, *slots = line.split()
        for first, _, last in [part.partition("-") for part in slots if not part.startswith("[")]:
            if int(first) <= slot <= int(last or first) and "fail" not in flags:
                return int(address.partition("@")[0].rpartition(":")[2])
    return 0


async def test_connections_cut_between_the_replies_of_many_slots_lose_no_charge() -> None:
    """Of the calls that are sent together, some are answered, some are carried out without an answer, and
    some do not arrive. All are settled.
    """
    with RedisServer("--cluster-enabled", "yes") as server:
        server.cli("CLUSTER", "ADDSLOTS", *map(str, range(ALL_SLOTS)))
        await asyncio.to_thread(
            wait_for, "the Cluster is up", lambda: "cluster_state:ok" in server.cli("CLUSTER", "INFO")
        )
        proxy = Proxy(server.port)
        await proxy.start()
        bench = Bench(f"redis://127.0.0.1:{proxy.port}", books=server.url, teams=TEAMS)
        await bench.start()

        async def fault() -> None:
            for after in range(0, 400, 20):
                proxy.cut_replies_after, proxy.cut_requests_after = (
                    (after, None) if after % 40 else (None, after * 10)
                )
                proxy.cuts = 1
                await until(lambda: not (proxy.cuts or bench.settling.journal.hits))

        await exact(
            bench, await bench.run(fault, mixed=True), "connections cut between the replies of many slots"
        )
        await bench.close()
        await proxy.stop()


@pytest.fixture
async def behind_sentinels() -> AsyncIterator[tuple[Bench, RedisSentinels]]:
    with RedisSentinels() as sentinels:
        link = Link(timeout=0.5, connect_timeout=0.5)
        bench = Bench(RedisStore(through_sentinels("mymaster", sentinels.addresses(), link)))
        await bench.start()
        yield bench, sentinels
        await bench.close()


async def test_charges_continue_on_the_replica_of_a_killed_primary(
    behind_sentinels: tuple[Bench, RedisSentinels],
) -> None:
    """The sentinels promote its replica, and charges continue there."""
    bench, sentinels = behind_sentinels

    async def fault() -> None:
        await until_answered(bench)
        sentinels.primary.kill()
        await asyncio.to_thread(wait_for, "the replica has taken over", sentinels.replica.is_primary)
        await until_answered(bench)

    await bounded(
        bench, await bench.run(fault), "a primary behind sentinels is killed, its replica takes over"
    )
    assert not bench.settling.open
