"""Limits are amended under load, on two replicas of one store, and the books stay exact.

What was used is what was charged, whatever was amended meanwhile; but for resets, which say how much they
have taken.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple

import pytest

from ratelimit_service.amending.following import Follower
from ratelimit_service.amending.operations import By, Operations, new_key
from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import MOST_EDITS, Applied, Remove
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
from ratelimit_service.stores.redis.client import Link, at_address, connect, through_sentinels
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.slots import slot_of
from testing.fleets import RedisCluster, RedisSentinels
from testing.proxy import Proxy
from testing.servers import RedisServer
from tests.limiter import Unobserved

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
KINDS = ("requests", "budget", "windows", "shadow", "quota")
TREE = RuleTree(load([read("d.yaml", RULES)]).domains)

WITHIN = 1.0
"""Seconds within which a change is in force everywhere. The median is held to it; one of many may be late on
a machine that is busy."""


class Replica:
    """A replica as it serves, without a transport; the first `below` is its store."""

    def __init__(self, below: CounterStore) -> None:
        self.ahead = 0.0
        """Seconds that its clock is ahead."""
        self.settling = SettlingStore(below) if isinstance(below, RedisStore | ClusterStore) else None
        self.store = CoalescingStore(self.settling) if self.settling is not None else below
        self.amendments = Amendments()
        self.service = RateLimitService(
            self.store, Unobserved(), self.now, patience=Patience(otherwise=0.05), amendments=self.amendments
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

    async def ask(self, text: str, hits: int = 0) -> Decision | None:
        """The decision on one descriptor; None where the store does not answer.

        What is charged is written down.
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
        """`OK 7 of 10`: the code, and the limit that is shown."""
        decision = await self.ask(text)
        if decision is None:
            return "unavailable"
        (status,) = decision.statuses
        return f"{decision.code.name} of {status.limit.amount if status.limit else None}"


async def answered(replica: Replica, text: str) -> str:
    """What it says, once the store has answered in time: the machine may be busy."""
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

    async def change(self, text: str, **what: int | str) -> Applied:
        """An override, or with `add` a top-up, of one target."""
        by = By("ana", "launch", new_key())
        operations = self.first.operations
        window = str(what.get("window", ""))
        if "add" in what:
            edit = operations.make_top_up(by, target(text), int(what["add"]), window=window)
        else:
            edit = operations.make_override(by, target(text), int(what["to"]), window=window)
        return await operations.apply(by, [edit])

    async def remove(self, applied: Applied) -> None:
        by = By("ana", "over", new_key())
        await self.first.operations.apply(by, [Remove(edited.id) for edited in applied.edits])

    async def until_told(self, text: str, expected: str, patience: float = 15.0) -> float:
        """Seconds until every replica answers so."""
        began = time.monotonic()
        for replica in self.replicas:
            await asyncio.sleep(0.001)  # in memory nothing else waits, and the load would have no turn
            while (seen := await replica.answer_to(text)) != expected:
                assert time.monotonic() < began + patience, (text, seen, expected)
                await asyncio.sleep(0.01)
        return time.monotonic() - began

    @asynccontextmanager
    async def load(self, pause: float = 0.005) -> AsyncIterator[None]:
        """Charges of every kind of rule, of both replicas, without a pause."""
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
        """Wait until every charge is written."""
        for replica in self.replicas:
            settling = replica.settling
            if settling is None:
                continue
            async with asyncio.timeout(30):
                await settling._in_flight.drained()
                while settling._recovering is not None:
                    await asyncio.wait([settling._recovering])

    def charged(self, text: str) -> int:
        return sum(replica.charged[text] for replica in {id(each): each for each in self.replicas}.values())

    async def held(self, text: str) -> list[int | None]:
        """What the counters of a bucket hold."""
        found = await self.first.store.read_bucket(bucket(text))
        return [count for _, count in sorted(found.items())]

    async def check_books(self, taken: int = 0) -> None:
        """Every charge of the load is there, once, in every window; `taken` is what resets took from
        `budget`.
        """
        for kind in KINDS:
            text = f"{kind}=busy"
            expected = self.charged(text) - (taken if kind == "budget" else 0)
            windows = 2 if kind == "windows" else 1
            assert [expected] * windows == (await self.held(text) or [0] * windows), text


def target(text: str) -> Target:
    return parse("d", text)


def bucket(text: str) -> str:
    key, _, value = text.partition("=")
    return keys.bucket("", keys.domain_text("d"), [keys.entry_text(key.encode(), value.encode())])


@pytest.fixture(scope="module")
def sentinels() -> Iterator[RedisSentinels]:
    with RedisSentinels() as sentinels:
        yield sentinels


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


@pytest.fixture(params=["memory", "redis", "sentinels", "cluster"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with running(*stores(request, request.param)) as fleet:
        yield fleet


@pytest.fixture
async def in_redis(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with running(*stores(request, "redis")) as fleet:
        yield fleet


MILLION = 1_000_000
ROWS: list[tuple[str, dict[str, int | str], str]] = [
    # What the check of a bucket that is used by 50 is told before, with the change, and (of two windows) with
    # the other one.
    ("requests", {"to": 10}, "OVER_LIMIT of 10"),
    ("requests", {"add": 5}, f"OK of {MILLION + 5}"),
    ("requests", {"to": 0}, "OVER_LIMIT of 0"),
    ("budget", {"to": 50}, "OVER_LIMIT of 50"),
    ("budget", {"to": 51}, "OK of 51"),
    ("budget", {"add": 5}, f"OK of {MILLION + 5}"),
    ("budget", {"to": 0}, "OVER_LIMIT of 0"),
    ("windows", {"to": 50}, "OVER_LIMIT of 50"),
    ("windows", {"to": 60}, "OK of 60"),
    ("windows", {"to": 50, "window": "month"}, "OVER_LIMIT of 50"),
    ("windows", {"to": 70, "window": "year"}, "OK of 70"),
    ("windows", {"add": 5}, f"OK of {MILLION + 5}"),
    ("windows", {"add": 5, "window": "year"}, f"OK of {MILLION}"),
    ("shadow", {"to": 50}, "OK of 50"),
    ("shadow", {"to": 0}, "OVER_LIMIT of 0"),
    ("quota", {"to": 50}, "OVER_LIMIT of 50"),
    ("quota", {"add": 5}, f"OK of {MILLION + 5}"),
]


async def test_each_verb_on_each_kind_of_rule_under_load(fleet: Fleet) -> None:
    """Put and removed again, on one bucket and by a pattern; each is in force on both replicas within a
    second, and no charge is lost.
    """
    seconds: list[float] = []

    async def put_and_remove(number: int, kind: str, what: dict[str, int | str], expected: str) -> None:
        text = f"{kind}=quiet{number}"
        for pattern in (text, f"{kind}=*quiet{number}"):
            applied = await fleet.change(pattern, **what)
            seconds.append(await fleet.until_told(text, expected))
            await fleet.remove(applied)
            seconds.append(await fleet.until_told(text, f"OK of {MILLION}"))

    for number, (kind, _, _) in enumerate(ROWS):
        await fleet.first.ask(f"{kind}=quiet{number}", 50)
    await fleet.settle()
    async with fleet.load():
        await asyncio.gather(*[put_and_remove(number, *row) for number, row in enumerate(ROWS)])
        switch = await fleet.change("*", to=0)
        seconds += [await fleet.until_told(f"{kind}=other", "OVER_LIMIT of 0") for kind in KINDS]
        await fleet.remove(switch)
        await fleet.until_told("budget=other", f"OK of {MILLION}")
    await fleet.check_books()
    for number, (kind, _, _) in enumerate(ROWS):
        assert {50} == set(await fleet.held(f"{kind}=quiet{number}"))
    assert statistics.median(seconds) < WITHIN
    assert max(seconds) < 3 * WITHIN, seconds


async def test_resets_under_load_take_what_they_say(fleet: Fleet) -> None:
    """What is left, and what the resets have taken, is what was charged; sent again, a reset takes nothing."""
    taken = 0
    async with fleet.load():
        for _ in range(10):
            await asyncio.sleep(0.02)
            by = By("ana", "a mistake", new_key())
            applied = await fleet.first.operations.reset(by, target("budget=busy"))
            again = await fleet.second.operations.reset(by, target("budget=busy"))
            assert (False, True) == (applied.replayed, again.replayed)
            reset = applied.edits[0].reset
            assert reset is not None
            taken += sum(count or 0 for _, count in reset.counters)
    assert taken > 0
    await fleet.check_books(taken)
    assert 10 == len(await fleet.first.operations.audit())


async def test_two_operators_at_once_and_one_of_them_twice(in_redis: Fleet) -> None:
    """Both replicas have the same in the end, which is what the audit says; a change that is sent again
    counts once.
    """
    by = [By("ana", "more", f"a{number}") for number in range(10)]
    others = [By("bo", "more", f"b{number}") for number in range(10)]

    async def top_up(replica: Replica, who: By) -> Applied:
        edit = replica.operations.make_top_up(who, target("budget=quiet"), 1)
        return await replica.operations.apply(who, [edit])

    async with in_redis.load():
        tries = [top_up(in_redis.first, who) for who in by + by] + [
            top_up(in_redis.second, who) for who in others + by
        ]
        applied = await asyncio.gather(*tries)
        await in_redis.until_told("budget=quiet", f"OK of {MILLION + 20}")
    assert 20 == sum(not each.replayed for each in applied)
    assert 20 == len(await in_redis.first.operations.audit())
    await in_redis.check_books()


async def test_ten_thousand_amendments_under_load(in_redis: Fleet) -> None:
    """A hundred in each change; all are in force, also on a replica that begins later, and the books are
    exact.
    """
    operations = in_redis.first.operations
    async with in_redis.load():
        for at in range(0, 10_000, MOST_EDITS):
            by = By("ana", "limits", new_key())
            edits = [
                operations.make_override(by, target(f"budget=u{number}"), number + 1)
                for number in range(at, at + MOST_EDITS)
            ]
            await operations.apply(by, edits)
        await in_redis.until_told("budget=u9999", "OK of 10000")
        assert 10_000 == len(in_redis.second.amendments)
        third = Replica(RedisStore(connect(in_redis_url(in_redis), timeout=0.5)))
        await third.start()
        assert 10_000 == len(third.amendments)
        assert "OK of 5001" == await answered(third, "budget=u5000")
        await third.close()
    await in_redis.check_books()


def in_redis_url(fleet: Fleet) -> str:
    settling = fleet.first.settling
    assert settling is not None and isinstance(settling._below, RedisStore)
    place = settling._below._client.connection_pool.connection_kwargs
    return f"redis://{place['host']}:{place['port']}"


async def test_a_replica_that_is_cut_off_keeps_what_it_knows_and_catches_up(redis_url: str) -> None:
    """A block stays, a change that it misses is not in force there, and it says how old that is; then it is
    within a second.
    """
    port = int(redis_url.rpartition(":")[2])
    proxy = Proxy(port)
    await proxy.start()
    behind = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}", timeout=0.3))
    try:
        async with running(RedisStore(connect(redis_url)), behind) as fleet, fleet.load():
            await fleet.change("budget=evil", to=0)
            await fleet.until_told("budget=evil", "OVER_LIMIT of 0")
            proxy.target = 1  # where nobody listens
            proxy.cut_all()
            await until(lambda: fleet.second.follower.age_seconds > 1)
            await fleet.change("budget=other", to=0)
            assert "OVER_LIMIT of 0" == await answered(fleet.first, "budget=other")
            assert (1, 2) == (len(fleet.second.amendments), len(fleet.first.amendments))
            assert await fleet.second.answer_to("budget=evil") in ("unavailable", "OVER_LIMIT of 0")
            proxy.target = port
            began = time.monotonic()
            await until(lambda: len(fleet.second.amendments) == 2)
            assert time.monotonic() - began < 3 * WITHIN
            await fleet.until_told("budget=other", "OVER_LIMIT of 0")
            await until(lambda: fleet.second.follower.age_seconds < 1)
        await fleet.settle()
    finally:
        await proxy.stop()


async def until(condition: Callable[[], bool], patience: float = 30.0) -> None:
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.01)


async def a_block_holds(fleet: Fleet, fault: Callable[[], Awaitable[None]]) -> Counter[str]:
    """What both replicas say of a blocked bucket while something goes wrong."""
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


async def test_a_step_of_a_clock_ends_a_top_up_at_that_replica_and_its_way_back_restores_it(
    in_redis: Fleet,
) -> None:
    """Each replica decides by its own clock; what is stored, and what is used, stays as it is."""
    by = By("ana", "launch", new_key())
    operations, second = in_redis.first.operations, in_redis.second
    edit = operations.make_top_up(by, target("budget=dba"), 5, until=int(time.time()) + 3_600)
    await in_redis.first.ask("budget=dba", 7)
    await operations.apply(by, [edit])
    await in_redis.until_told("budget=dba", f"OK of {MILLION + 5}")
    for ahead, limit in ((7_200.0, MILLION), (0.0, MILLION + 5), (-7_200.0, MILLION + 5)):
        second.ahead = ahead
        assert f"OK of {limit}" == await answered(second, "budget=dba")
        assert f"OK of {MILLION + 5}" == await answered(in_redis.first, "budget=dba")
    second.ahead = 0.0
    decision = await second.ask("budget=dba")
    assert decision is not None
    assert MILLION + 5 - 7 == decision.statuses[0].remaining


async def test_a_failover_in_the_middle(request: pytest.FixtureRequest) -> None:
    """A block holds on both replicas all the time; a change after the failover is in force within a second,
    and nothing counts twice.
    """
    with RedisSentinels() as sentinels:
        link = Link(timeout=0.5, connect_timeout=0.5)
        below = [RedisStore(through_sentinels("mymaster", sentinels.addresses(), link)) for _ in range(2)]
        async with running(*below) as fleet:
            await fleet.change("budget=evil", to=0)
            await fleet.until_told("budget=evil", "OVER_LIMIT of 0")
            await asyncio.to_thread(sentinels.primary.cli, "WAIT", "1", "5000")

            async def fault() -> None:
                sentinels.primary.kill()
                await until_taken_over(sentinels.replica)
                await until(lambda: fleet.first.follower.age_seconds < 0.2)
                began = time.monotonic()
                await fleet.change("budget=quiet", to=7)
                await fleet.until_told("budget=quiet", "OK of 7")
                assert time.monotonic() - began < 3 * WITHIN

            async with fleet.load():
                seen = await a_block_holds(fleet, fault)
            assert {"OVER_LIMIT of 0", "unavailable"} >= set(seen), seen
            assert 2 == (await fleet.second.operations.audit())[0].version
            for kind in KINDS:
                for count in await fleet.held(f"{kind}=busy"):
                    assert count is not None and count <= fleet.charged(f"{kind}=busy")


async def until_taken_over(server: RedisServer) -> None:
    async with asyncio.timeout(30):
        while "role:master" not in await asyncio.to_thread(server.cli, "INFO", "replication"):
            await asyncio.sleep(0.02)


async def test_the_server_of_the_amendments_goes_away_in_a_cluster(redis_cluster: RedisCluster) -> None:
    """Its replica takes over; what is in force stays, and changes go on there."""
    link = Link(timeout=0.5, connect_timeout=0.5)
    below = [
        ClusterStore(lambda address: at_address(address, link), redis_cluster.addresses()) for _ in range(2)
    ]
    async with running(*below) as fleet:
        await fleet.change("budget=evil", to=0)
        await fleet.until_told("budget=evil", "OVER_LIMIT of 0")
        slot = slot_of("{amendments}:current")
        owner = redis_cluster.owner(slot)
        await asyncio.to_thread(owner.cli, "WAIT", "1", "5000")

        async def fault() -> None:
            owner.kill()
            await until(lambda: fleet.second.follower.age_seconds > 0.6)
            await until(lambda: fleet.second.follower.age_seconds < 0.3)
            await fleet.change("budget=quiet", to=7)
            await fleet.until_told("budget=quiet", "OK of 7")

        try:
            async with fleet.load():
                seen = await a_block_holds(fleet, fault)
        finally:
            await asyncio.to_thread(owner.start)
            await asyncio.to_thread(redis_cluster.wait_until_whole)
        assert {"OVER_LIMIT of 0", "unavailable"} >= set(seen), seen


async def test_the_slot_of_the_amendments_moves_to_another_server(redis_cluster: RedisCluster) -> None:
    """Under load, with a change while it is half way; the books are exact."""
    link = Link(timeout=0.5, connect_timeout=0.5)
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
            # All keys are over there, and the slot is not yet: a key that is new is nowhere (TRYAGAIN).
            change = asyncio.create_task(fleet.change("budget=quiet", to=7))
            await asyncio.sleep(0.1)
            assert not change.done()
            await asyncio.to_thread(redis_cluster.end_move, slot, other)
            await change
            await fleet.until_told("budget=quiet", "OK of 7")
            await fleet.change("budget=quiet", to=8)
            await fleet.until_told("budget=quiet", "OK of 8")
            await fleet.until_told("budget=evil", "OVER_LIMIT of 0")
        await fleet.check_books()


async def test_a_store_that_came_back_empty_lifts_what_was_in_force_and_says_so(
    redis_server: RedisServer,
) -> None:
    """As it forgets what was used."""
    redis_server.cli("FLUSHALL")
    async with running(*[RedisStore(connect(redis_server.url)) for _ in range(2)]) as fleet:
        await fleet.change("budget=quiet", to=7)
        await fleet.until_told("budget=quiet", "OK of 7")
        redis_server.cli("FLUSHALL")
        await fleet.until_told("budget=quiet", f"OK of {MILLION}")
        await fleet.change("budget=quiet", to=8)
        await fleet.until_told("budget=quiet", "OK of 8")
