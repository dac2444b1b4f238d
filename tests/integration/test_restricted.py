"""A Redis that does not allow everything: commands that are renamed, keys that an ACL forbids, and what it
refuses for now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ratelimit_service.assembly import make_store
from ratelimit_service.core.errors import CounterRefused, StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.settings.table import load_settings
from ratelimit_service.stores.batch import CallFailed, Fate
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.client import Link, Login, at_address, connect
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.wire import Command
from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer

COMMANDS = "+evalsha +eval +get +set +incrby +decrby +ttl +expire".split()
"""As docs/compatibility.md has them."""

ALLOWED, FORBIDDEN = "{ours|k=v}:hour:2026-11-21T01Z", "{theirs|k=v}:hour:2026-11-21T01Z"


async def hit(store: CounterStore, *groups: Sequence[Hit]) -> list[object]:
    """Counts of each group; an error as its kind."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit(groups, answer.set_result)
    return [shown(outcome) for outcome in await asyncio.wait_for(answer, 15)]


def shown(outcome: Outcome) -> object:
    if isinstance(outcome, StoreError):
        return type(outcome)
    return [type(count) if isinstance(count, StoreError) else count for count in outcome]


async def charge(store: CounterStore, *keys: str, amount: int = 1) -> object:
    """The counts of one request."""
    (outcome,) = await hit(store, [Hit(key, amount, ttl=60) for key in keys])
    return outcome


async def settled(store: SettlingStore) -> None:
    async with asyncio.timeout(60):
        while store._recovering is not None:
            await asyncio.wait([store._recovering])


@asynccontextmanager
async def settling(below: RedisStore | ClusterStore) -> AsyncIterator[SettlingStore]:
    store = SettlingStore(below, random_share=lambda: 1.0)
    try:
        await store.start()
        yield store
    finally:
        await store.close()


# Without SCRIPT.


async def test_a_redis_without_script_is_healthy_and_recovers() -> None:
    """rename-command SCRIPT: EVALSHA and EVAL are enough at the start, for the health, and to close the
    circuit.
    """
    with RedisServer("--rename-command", "SCRIPT", "") as server:
        async with settling(RedisStore(connect(server.url, timeout=0.5))) as store:
            await store.ping()
            assert [0] == await charge(store, "{a}:x")
            server.stop()
            for _ in range(3):
                await charge(store, "{a}:x")
            assert is_open(store)
            with pytest.raises(StoreError):
                await store.ping()
            server.start()
            await settled(store)
            assert not is_open(store)
            await store.ping()
            assert [3] == await charge(store, "{a}:x")


async def test_a_cluster_without_script_is_healthy_and_recovers() -> None:
    """Of one server."""
    with RedisServer("--cluster-enabled", "yes", "--rename-command", "SCRIPT", "") as server:
        server.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        address = ("127.0.0.1", server.port)
        async with asyncio.timeout(60):
            while "cluster_state:ok" not in server.cli("CLUSTER", "INFO"):
                await asyncio.sleep(0.01)
        async with settling(ClusterStore(lambda to: at_address(to, Link(timeout=0.5)), [address])) as store:
            await store.ping()
            assert [0, 0] == await charge(store, "{a}:x", "{b}:x")


def is_open(store: SettlingStore) -> bool:
    """Whether nothing is sent to Redis; asked anew each time."""
    return store.open


# Keys that an ACL forbids.


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Another Redis than that of all tests: its settings are changed."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[SettlingStore]:
    """Of a user who may touch one domain, and registers."""
    server.cli("FLUSHALL")
    allow(server, "~{ours|*", "~lane:*", *COMMANDS)
    async with settling(RedisStore(connect(f"redis://{server.address}", username="app", password="x"))) as it:
        yield it


def allow(server: RedisServer, *rules: str) -> None:
    """What the user may do, and nothing else."""
    assert "OK" == server.cli("ACL", "SETUSER", "app", "reset", "on", ">x", *rules)


async def test_a_domain_that_is_forbidden_fails_its_own_requests(store: SettlingStore) -> None:
    """However many there are: the circuit stays closed, nothing is settled, and the counter is named."""
    for turn in range(6):
        assert [CounterRefused] == await charge(store, FORBIDDEN)
        assert [turn] == await charge(store, ALLOWED)
    assert (False, 0, 0) == (store.open, store.journal.hits, store.journal.dropped)
    await store.ping()


async def test_a_batch_is_taken_apart_and_each_request_has_its_own_answer(
    store: SettlingStore, server: RedisServer
) -> None:
    """Those beside a forbidden one are counted once, and told what they found, in their order."""
    groups = [[Hit(FORBIDDEN if number % 7 == 3 else ALLOWED, 1, ttl=60)] for number in range(20)]
    answers = await hit(store, *groups[:10], [], *groups[10:])
    assert [] == answers.pop(10)
    found = iter(range(20))
    expected = [[CounterRefused] if number % 7 == 3 else [next(found)] for number in range(20)]
    assert expected == answers
    assert str(next(found)) == server.cli("GET", ALLOWED)


async def test_one_request_is_counted_where_it_may_be(store: SettlingStore, server: RedisServer) -> None:
    """Its other buckets are charged, as where one counter is no number; a group that is held back stays one
    step.
    """
    others = [ALLOWED.replace("k=v", f"k={number}") for number in range(3)]
    assert [0, CounterRefused, 0, 0] == await charge(store, others[0], FORBIDDEN, *others[1:], amount=3)
    both = Gate.REFUSES | Gate.HOLDS
    group = [Hit(key, 1, ttl=60, limit=3, gate=both) for key in (others[0], FORBIDDEN, others[1])]
    assert [[~3, CounterRefused, ~3]] == await hit(store, group)
    assert ["3"] * 3 == server.cli("MGET", *others).split()


async def test_the_refusal_names_the_key_and_what_redis_says(store: SettlingStore) -> None:
    """The log has both (observe/observers.py)."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([[Hit(FORBIDDEN, 1, ttl=60)]], answer.set_result)
    ((refused,),) = await answer  # type: ignore[misc]
    assert isinstance(refused, CounterRefused)
    assert FORBIDDEN == refused.key
    assert str(refused).startswith("Redis refused a counter: NoPermissionError: this user has no permissions")


async def test_refusals_leave_nothing_behind_in_redis(store: SettlingStore, server: RedisServer) -> None:
    """A stranger who makes up values of a forbidden domain makes no registers."""
    await charge(store, FORBIDDEN)
    before = server.cli("DBSIZE")
    for number in range(20):
        await charge(store, FORBIDDEN.replace("k=v", f"k={number}"))
    assert before == server.cli("DBSIZE")


async def test_a_user_who_may_do_nothing_is_an_outage(store: SettlingStore, server: RedisServer) -> None:
    """Of all of Redis, until that is put right; then every charge is counted, once."""
    allow(server, "~*", "+ping")
    for _ in range(4):
        assert type(await charge(store, ALLOWED)) is type
    assert is_open(store)
    with pytest.raises(StoreError, match="NoPermission"):
        await store.ping()
    allow(server, "~{ours|*", "~lane:*", *COMMANDS)
    await settled(store)
    assert [4] == await charge(store, ALLOWED, amount=0)
    assert not is_open(store)


async def test_what_waited_for_a_forbidden_domain_is_counted_as_lost(
    store: SettlingStore, server: RedisServer
) -> None:
    """And holds up nothing that waited beside it."""
    store.open = True
    for key in (FORBIDDEN, ALLOWED, FORBIDDEN, ALLOWED):
        await charge(store, key, amount=5)
    store._recover()
    await settled(store)
    assert (False, 0, 2) == (store.open, store.journal.hits, store.journal.dropped)
    assert "10" == server.cli("GET", ALLOWED)


# What Redis refuses for now.


REFUSALS: dict[str, tuple[Callable[[RedisServer], object], Callable[[RedisServer], object], str]] = {
    "out of memory": (
        lambda server: server.cli("CONFIG", "SET", "maxmemory", "1"),
        lambda server: server.cli("CONFIG", "SET", "maxmemory", "0"),
        "OutOfMemoryError",
    ),
    "read-only": (
        lambda server: server.cli("REPLICAOF", "127.0.0.1", "1"),
        lambda server: server.cli("REPLICAOF", "NO", "ONE"),
        "ReadOnlyError",
    ),
    "too few replicas": (
        lambda server: server.cli("CONFIG", "SET", "min-replicas-to-write", "1"),
        lambda server: server.cli("CONFIG", "SET", "min-replicas-to-write", "0"),
        "NOREPLICAS",
    ),
    "no login": (
        lambda server: (
            server.cli("ACL", "SETUSER", "app", "off"),
            server.cli("CLIENT", "KILL", "USER", "app"),
        ),
        lambda server: server.cli("ACL", "SETUSER", "app", "on"),
        "AuthenticationError",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_is_refused_for_now_was_never_applied(
    store: SettlingStore, server: RedisServer, what: str
) -> None:
    """It is kept without a lane, so that it never becomes too old to be settled, and its lane is used again."""
    begin, end, why = REFUSALS[what]
    assert [0] == await charge(store, ALLOWED)
    begin(server)
    try:
        await charge(store, ALLOWED)  # where the connection was killed, this one finds out
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        store.hit([[Hit(ALLOWED, 1, ttl=60)]], answer.set_result)
        (refused,) = await asyncio.wait_for(answer, 15)
        assert isinstance(refused, CallFailed)
        assert (Fate.REFUSED, True) == (refused.fate, why in str(refused))
        assert None in [batch.sent for queue in store.journal._queues.values() for batch in queue]
    finally:
        end(server)
    await settled(store)
    assert [3] == await charge(store, ALLOWED, amount=0)
    assert 0 == store.journal.dropped


async def test_a_register_of_another_kind_costs_its_lane_and_nothing_else(
    store: SettlingStore, server: RedisServer
) -> None:
    """Somebody has pushed to it, say."""
    assert [0] == await charge(store, ALLOWED)
    (lane,) = server.cli("KEYS", f"lane:{store._lanes.name}*").split()
    server.cli("DEL", lane)
    server.cli("RPUSH", lane, "x")
    for _ in range(4):
        await charge(store, ALLOWED)
    await settled(store)
    assert [5] == await charge(store, ALLOWED, amount=0)
    assert (False, 0) == (store.open, store.journal.dropped)


@pytest.mark.parametrize("what", ["out of memory", "read-only"])
async def test_a_redis_that_cannot_be_written_to_at_the_start_is_no_proxy(
    server: RedisServer, what: str
) -> None:
    """Whether all keys are on one server is found out when it counts; until then buckets are apart."""
    begin, end, _ = REFUSALS[what]
    groups = [[Hit("{a}:x", 1, ttl=60), Hit("{b}:x", 1, ttl=60)]]
    begin(server)
    try:
        below = RedisStore(connect(server.url))
        await below.start()
        await below.ping()
        assert 2 == len(below.split(groups) or ())
    finally:
        end(server)
    await below.ping()
    assert below.split(groups) is None
    await below.close()


async def test_a_redis_that_loses_the_marker_is_no_proxy(server: RedisServer) -> None:
    """A FLUSHALL at the worst moment: it is looked at twice."""
    below = RedisStore(connect(server.url))
    ask = below._ask
    asked = 0

    async def losing(command: Command) -> object:
        nonlocal asked
        asked += 1
        reply = await ask(command)
        if asked == 17:  # the marker, after the greetings
            server.cli("FLUSHALL")
        return reply

    below._ask = losing  # type: ignore[method-assign]
    await below.start()
    assert asked > 17 + 64 + 2
    assert below.split([[Hit("{a}:x", 1, ttl=60), Hit("{b}:x", 1, ttl=60)]]) is None
    await below.close()


# A prefix with a hash tag.


async def test_a_prefix_with_a_hash_tag_is_that_of_every_key(server: RedisServer) -> None:
    """A user who may touch nothing else can count."""
    server.cli("FLUSHALL")
    allow(server, "~{rl}:*", *COMMANDS)
    key = "{rl}:" + ALLOWED
    settings = {"REDIS_URL": server.address, "REDIS_AUTH": "app:x", "CACHE_KEY_PREFIX": "{rl}:"}
    store = make_store(load_settings({"STORE_ANSWER_DEADLINE": "10s", **settings}))
    await store.start()
    await store.ping()
    assert [[0], [2]] == [await charge(store, key, amount=2), await charge(store, key)]
    await store.close()
    assert all(key.startswith("{rl}:") for key in server.cli("KEYS", "*").split())


async def test_in_a_cluster_a_prefix_with_a_hash_tag_is_one_slot(redis_cluster: RedisCluster) -> None:
    """All buckets are one call, and settled as one."""
    redis_cluster.flush()
    for each in redis_cluster.servers:
        each.cli(
            "ACL",
            "SETUSER",
            "tagged",
            "reset",
            "on",
            ">x",
            "~{rl}:*",
            "+cluster|slots",
            "+ping",
            "+scan",
            *COMMANDS,
        )
    link = Link(Login("tagged", "x"), timeout=5.0)
    below = ClusterStore(lambda to: at_address(to, link), redis_cluster.addresses(), prefix="{rl}:")
    keys = [f"{{rl}}:{{d|k={number}}}:day:x" for number in range(30)]
    async with settling(below) as store:
        assert [0] * 30 == await charge(store, *keys)
        assert [1] * 30 == await charge(store, *keys)
        assert 1 == len(below.split([[Hit(key, 1, ttl=60) for key in keys]]))
        assert {keys[7]: 2} == await store.read_bucket("{rl}:{d|k=7}")
