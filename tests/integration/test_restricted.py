"""A Redis with restrictions: renamed commands, keys that an ACL forbids, and temporary refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ratelimit_service.assembly.stores import make_store
from ratelimit_service.core.errors import CounterRefused, StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.settings.table import load_settings
from ratelimit_service.stores.batch import CallFailed, Fate
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.client import Link, Login, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.wire import Command
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer
from testing.waiting import until

COMMANDS = "+evalsha +eval +get +set +incrby +decrby +ttl +expire".split()
"""The permissions that docs/compatibility.md lists."""

ALLOWED, FORBIDDEN = "{ours|k=v}:hour:2026-11-21T01Z", "{theirs|k=v}:hour:2026-11-21T01Z"


async def hit(store: CounterStore, *groups: Sequence[Hit]) -> list[object]:
    """Return the counts of each group; for an error, its kind."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit(groups, answer.set_result)
    return [shown(outcome) for outcome in await asyncio.wait_for(answer, 15)]


def shown(outcome: Outcome) -> object:
    if isinstance(outcome, StoreError):
        return type(outcome)
    return [type(count) if isinstance(count, StoreError) else count for count in outcome]


async def charge(store: CounterStore, *keys: str, amount: int = 1) -> object:
    """Return the counts of one request."""
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


# Redis without SCRIPT.


async def test_a_redis_without_script_is_healthy_and_recovers() -> None:
    """If SCRIPT is renamed, EVALSHA and EVAL suffice at the start, for health checks, and to close the
    circuit.
    """
    with RedisServer("--rename-command", "SCRIPT", "") as server:
        async with settling(RedisStore(connect(server.url, timeout=5.0))) as store:
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
    """With one server."""
    with RedisServer("--cluster-enabled", "yes", "--rename-command", "SCRIPT", "") as server:
        server.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        address = ("127.0.0.1", server.port)
        await until(lambda: "cluster_state:ok" in server.cli("CLUSTER", "INFO"))
        async with settling(ClusterStore(lambda to: at_address(to, Link(timeout=5.0)), [address])) as store:
            await store.ping()
            assert [0, 0] == await charge(store, "{a}:x", "{b}:x")


def is_open(store: SettlingStore) -> bool:
    """Return whether the circuit is open. A function, because mypy considers a property constant."""
    return store.open


# Keys that an ACL forbids.


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A separate Redis, because its settings are changed."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[SettlingStore]:
    """A store whose user may access one domain, and registers."""
    server.cli("FLUSHALL")
    allow(server, "~{ours|*", "~lane:*", *COMMANDS)
    async with settling(RedisStore(connect(f"redis://{server.address}", username="app", password="x"))) as it:
        yield it


def allow(server: RedisServer, *rules: str) -> None:
    """Give the user these permissions, and no others."""
    assert "OK" == server.cli("ACL", "SETUSER", "app", "reset", "on", ">x", *rules)


async def test_a_forbidden_domain_fails_only_its_own_requests(store: SettlingStore) -> None:
    """Even if there are many: the circuit stays closed, nothing has to be settled, and the counter is
    named.
    """
    for turn in range(6):
        assert [CounterRefused] == await charge(store, FORBIDDEN)
        assert [turn] == await charge(store, ALLOWED)
    assert (False, 0, 0) == (store.open, store.journal.hits, store.journal.dropped)
    await store.ping()


async def test_a_batch_with_forbidden_keys_is_split(store: SettlingStore, server: RedisServer) -> None:
    """The other requests are counted once, and get their counts in order."""
    groups = [[Hit(FORBIDDEN if number % 7 == 3 else ALLOWED, 1, ttl=60)] for number in range(20)]
    answers = await hit(store, *groups[:10], [], *groups[10:])
    assert [] == answers.pop(10)
    found = iter(range(20))
    expected = [[CounterRefused] if number % 7 == 3 else [next(found)] for number in range(20)]
    assert expected == answers
    assert str(next(found)) == server.cli("GET", ALLOWED)


async def test_allowed_buckets_of_a_request_are_charged(store: SettlingStore, server: RedisServer) -> None:
    """As if one counter was not a number. A gated group remains atomic."""
    others = [ALLOWED.replace("k=v", f"k={number}") for number in range(3)]
    assert [0, CounterRefused, 0, 0] == await charge(store, others[0], FORBIDDEN, *others[1:], amount=3)
    both = Gate.REFUSES | Gate.HOLDS
    group = [Hit(key, 1, ttl=60, limit=3, gate=both) for key in (others[0], FORBIDDEN, others[1])]
    assert [[~3, CounterRefused, ~3]] == await hit(store, group)
    assert ["3"] * 3 == server.cli("MGET", *others).split()


async def test_the_error_has_the_key_and_the_reply_of_redis(store: SettlingStore) -> None:
    """The log has both (observe/observers.py)."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([[Hit(FORBIDDEN, 1, ttl=60)]], answer.set_result)
    ((refused,),) = await answer  # type: ignore[misc]
    assert isinstance(refused, CounterRefused)
    assert FORBIDDEN == refused.key
    assert str(refused).startswith("Redis refused a counter: NoPermissionError: this user has no permissions")


async def test_refused_hits_create_no_keys_in_redis(store: SettlingStore, server: RedisServer) -> None:
    """A caller with many values in a forbidden domain creates no registers."""
    await charge(store, FORBIDDEN)
    before = server.cli("DBSIZE")
    for number in range(20):
        await charge(store, FORBIDDEN.replace("k=v", f"k={number}"))
    assert before == server.cli("DBSIZE")


async def test_a_user_without_permissions_is_an_outage(store: SettlingStore, server: RedisServer) -> None:
    """All calls fail until the permissions are granted. Then every charge is counted once."""
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


async def test_waiting_charges_of_a_forbidden_domain_are_counted_as_lost(
    store: SettlingStore, server: RedisServer
) -> None:
    """They do not delay other waiting charges."""
    store.open = True
    for key in (FORBIDDEN, ALLOWED, FORBIDDEN, ALLOWED):
        await charge(store, key, amount=5)
    store._recover()
    await settled(store)
    assert (False, 0, 2) == (store.open, store.journal.hits, store.journal.dropped)
    assert "10" == server.cli("GET", ALLOWED)


# Temporary refusals.


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
async def test_a_temporarily_refused_batch_was_never_applied(
    store: SettlingStore, server: RedisServer, what: str
) -> None:
    """It is kept without a lane, so it never becomes too old to be settled, and its lane is used again."""
    begin, end, why = REFUSALS[what]
    assert [0] == await charge(store, ALLOWED)
    begin(server)
    try:
        await charge(store, ALLOWED)  # if the connection was killed, this call detects it
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


async def test_a_register_of_another_type_affects_only_its_lane(
    store: SettlingStore, server: RedisServer
) -> None:
    """For example, after an LPUSH on its key."""
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
async def test_a_redis_that_refuses_writes_at_the_start_is_not_taken_for_a_proxy(
    server: RedisServer, what: str
) -> None:
    """The check is completed when Redis accepts writes. Until then, buckets are sent separately."""
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


async def test_a_redis_that_loses_the_marker_is_not_taken_for_a_proxy(server: RedisServer) -> None:
    """After a FLUSHALL during the check, it is repeated."""
    below = RedisStore(connect(server.url))
    ask = below._ask
    asked = 0

    async def losing(command: Command) -> object:
        nonlocal asked
        asked += 1
        reply = await ask(command)
        if asked == 17:  # the marker, after the handshake
            server.cli("FLUSHALL")
        return reply

    below._ask = losing  # type: ignore[method-assign]
    await below.start()
    assert asked > 17 + 64 + 2
    assert below.split([[Hit("{a}:x", 1, ttl=60), Hit("{b}:x", 1, ttl=60)]]) is None
    await below.close()


# A prefix with a hash tag.


async def test_every_key_begins_with_a_prefix_that_has_a_hash_tag(server: RedisServer) -> None:
    """A user with access to that prefix alone can count."""
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


async def test_a_prefix_with_a_hash_tag_is_one_slot_of_a_cluster(redis_cluster: RedisCluster) -> None:
    """All buckets are in one call, and are settled as one."""
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
