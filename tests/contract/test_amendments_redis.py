"""Amendments in Redis: a readable format, and the commands and writes that Redis may refuse."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from ratelimit_service.core.amendments.model import MOST_EDITS, News, Put, Remove, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import StoreError
from ratelimit_service.stores.redis import amendments as in_redis
from ratelimit_service.stores.redis.amendments import RedisAmendments
from ratelimit_service.stores.redis.background_scripts import Evaluation
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_fleets import RedisSentinels
from testing.redis_servers import RedisServer

from .changes import ONE, TWO, change, current, ordered

# The keys in Redis.


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[tuple[RedisAmendments, RedisServer]]:
    redis_server.cli("FLUSHALL")
    store = RedisStore(connect(redis_server.url))
    await store.start()
    yield store.amendments, redis_server
    await store.close()


async def test_amendments_are_readable_with_redis_cli(redis: tuple[RedisAmendments, RedisServer]) -> None:
    """As docs/keys.md describes."""
    store, server = redis
    await store.apply(change(Put(ONE)))
    assert "1" == server.cli("HGET", "{amendments}:current", "version")
    text = server.cli("HGET", "{amendments}:current", ONE.id)
    assert {"kind": "override", "domain": "d", "amount": 5}.items() <= json.loads(text).items()
    assert "1-1" == server.cli("XRANGE", "{amendments}:audit", "-", "+").splitlines()[0]
    (key,) = server.cli("--scan", "--pattern", "{amendments}:done:*").split()
    assert 86_000 < int(server.cli("TTL", key)) <= 86_400


async def test_an_amendment_of_an_unknown_kind_is_skipped_and_counted(
    redis: tuple[RedisAmendments, RedisServer],
) -> None:
    """A later version of the service may write it. It is also skipped in news, and the others are in
    force.
    """
    store, server = redis
    await store.apply(change(Put(ONE)))
    known = await store.news(0, "")
    server.cli("HSET", "{amendments}:current", "g-1", '{"id":"g-1","kind":"grant"}')
    news = await store.news(0, "")
    assert ((ONE,), 1) == (tuple(news.put), news.unreadable)
    fields = ["stamp", "s", "at", "1", "author", "a", "reason", "r", "key", "k", "id", "g-1", "before", ""]
    server.cli("XADD", "{amendments}:audit", "2-1", *fields, "after", "{}", "reset", "")
    server.cli("HSET", "{amendments}:current", "version", "2", "stamp", "s")
    news = await store.news(known.version, known.stamp)
    assert (2, (), 1, False) == (news.version, tuple(news.put), news.unreadable, news.whole)


async def test_a_deleted_hash_is_noticed(redis: tuple[RedisAmendments, RedisServer]) -> None:
    """No amendment is in force any more, and the next change has a version that no replica knows."""
    store, server = redis
    await store.apply(change(Put(ONE), key="1"))
    known = await store.news(0, "")
    server.cli("DEL", "{amendments}:current")
    assert News(0, "", whole=True) == await store.news(known.version, known.stamp)
    await store.apply(change(Put(TWO), key="2"))
    news = await store.news(0, "")
    assert (2, (TWO,)) == (news.version, tuple(news.put))


async def test_a_change_during_a_scan_is_not_missed(
    redis: tuple[RedisAmendments, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an amendment that is put behind the cursor, nor one that is removed before it."""
    store, _ = redis
    amendments = [override(parse("d", f"user={number}"), number) for number in range(1_000)]
    for at in range(0, 1_000, MOST_EDITS):
        await store.apply(change(*map(Put, amendments[at : at + MOST_EDITS]), key=f"{at}"))
    other = [override(parse("d", f"other={number}"), number) for number in range(8)]
    calls = 0
    run = store._run

    async def run_between(call: Evaluation) -> object:
        nonlocal calls
        if call.script is in_redis.SCAN and calls < 8:
            calls += 1
            await store.apply(
                change(Put(other[calls - 1]), Remove(amendments[calls].id), key=f"change {calls}")
            )
        return await run(call)

    monkeypatch.setattr(store, "_run", run_between)
    news = await store.news(0, "")
    expected = [each for number, each in enumerate(amendments) if not 1 <= number <= 8] + other
    assert (18, ordered(*expected)) == (news.version, ordered(*news.put))


async def test_amendments_need_exactly_the_documented_permissions(redis_server: RedisServer) -> None:
    """They are in docs/compatibility.md. Without them, counters still work, and the error has the reason."""
    redis_server.cli("FLUSHALL")
    allowed = (
        "+evalsha +eval +get +set +hget +hmget +hset +hdel +hlen +hscan +xadd +xrange +xrevrange".split()
    )
    assert "OK" == redis_server.cli("ACL", "SETUSER", "app", "reset", "on", ">x", "~{amendments}:*", *allowed)
    store = RedisStore(connect(f"redis://{redis_server.address}", username="app", password="x"))
    try:
        await store.amendments.apply(change(Put(ONE)))
        await store.amendments.finish("key")
        assert [ONE] == await current(store.amendments)
        assert 1 == len(await store.amendments.audit())
        redis_server.cli("ACL", "SETUSER", "app", "resetkeys", "~{ours|*")
        with pytest.raises(StoreError, match="NoPermission"):
            await store.amendments.news(0, "")
        with pytest.raises(StoreError, match="NoPermission"):
            await store.amendments.apply(change(Put(TWO), key="2"))
    finally:
        await store.close()
        redis_server.cli("ACL", "DELUSER", "app")


async def test_a_redis_that_refuses_writes_applies_no_part_of_a_change(
    redis: tuple[RedisAmendments, RedisServer], redis_sentinels: RedisSentinels
) -> None:
    """It is out of memory, or a replica. The change can be sent again with its key."""
    store, server = redis
    server.cli("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="OutOfMemory"):
            await store.apply(change(Put(ONE)))
    finally:
        server.cli("CONFIG", "SET", "maxmemory", "0")
    assert "" == server.cli("--scan", "--pattern", "{amendments}:*")
    assert not (await store.apply(change(Put(ONE)))).replayed
    replica = RedisStore(connect(redis_sentinels.replica.url))
    with pytest.raises(StoreError, match="ReadOnly"):
        await replica.amendments.apply(change(Put(ONE)))
    await replica.close()
