"""The Redis store: times to live, missing scripts, and failures of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op, Size
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import Outcome
from ratelimit_service.stores.batch import Batch, result_of
from ratelimit_service.stores.lanes import EVERYWHERE, Lane
from ratelimit_service.stores.redis.server import RedisStore
from testing.proxy import Proxy
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

KEY = "{d|k=v}:hour:2026-11-21T01Z"
NOON = 1_795_262_400


async def hit(store: RedisStore, *groups: Sequence[Hit]) -> Sequence[Outcome]:
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit(groups, answer.set_result)
    return await asyncio.wait_for(answer, 10)


async def test_a_new_counter_gets_the_time_to_live_of_its_hit(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """It is set once: a later hit does not extend it."""
    await hit(store, [Hit(KEY, 1, ttl=500)])
    await hit(store, [Hit(KEY, 1, ttl=9_000)])
    assert 495 <= int(redis_server.cli("TTL", KEY)) <= 500


@pytest.mark.parametrize("amount", [1, -1])
async def test_a_counter_set_by_hand_gets_a_time_to_live_again(
    store: RedisStore, redis_server: RedisServer, amount: int
) -> None:
    """SET removes the time to live. The next charge sets it again, so that no counter stays forever."""
    redis_server.cli("SET", KEY, "10")
    await hit(store, [Hit(KEY, amount, ttl=500)])
    assert str(10 + amount) == redis_server.cli("GET", KEY)
    assert 495 <= int(redis_server.cli("TTL", KEY)) <= 500


async def test_a_saturated_counter_keeps_its_time_to_live(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """Writing the largest count does not remove it."""
    await hit(store, [Hit(KEY, 2**53 - 1, ttl=500)], [Hit(KEY, 1, ttl=500)])
    assert "9007199254740991" == redis_server.cli("GET", KEY)
    assert 495 <= int(redis_server.cli("TTL", KEY)) <= 500


async def test_checks_and_refused_gated_hits_write_nothing(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """They do not even set a time to live."""
    both = Gate.REFUSES | Gate.YIELDS
    await hit(
        store,
        [Hit("a", 0, ttl=500)],
        [Hit("b", 5, ttl=500, limit=1, gate=both), Hit("c", 1, ttl=500, limit=1, gate=both)],
    )
    assert "b" == redis_server.cli("KEYS", "?")  # registers have longer names


async def test_a_batch_is_one_command(store: RedisStore, redis_server: RedisServer) -> None:
    """One round trip for any number of requests, descriptors and windows."""
    before = calls(redis_server)
    await hit(store, *[[Hit(f"{request}{place}", 1, ttl=60) for place in range(4)] for request in range(50)])
    assert 1 == calls(redis_server) - before


def calls(server: RedisServer, command: str = "evalsha") -> int:
    lines = server.cli("INFO", "commandstats").splitlines()
    return sum(
        int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith(f"cmdstat_{command}:")
    )


async def test_charges_of_one_counter_are_merged(store: RedisStore, redis_server: RedisServer) -> None:
    """Fifty callers that charge one budget make one INCRBY, and each gets its own count."""
    before = calls(redis_server, "incrby")
    counts = await hit(store, *[[Hit(KEY, 3, ttl=500)] for _ in range(50)])
    assert [[3 * number] for number in range(50)] == counts
    assert 1 == calls(redis_server, "incrby") - before
    assert "150" == redis_server.cli("GET", KEY)


async def test_a_missing_script_is_loaded_again(store: RedisStore, redis_server: RedisServer) -> None:
    """After SCRIPT FLUSH, or on a new server, the hit is still counted once."""
    redis_server.cli("SCRIPT", "FLUSH")
    assert [[0]] == await hit(store, [Hit(KEY, 3, ttl=500)])
    assert [[3]] == await hit(store, [Hit(KEY, 0, ttl=500)])


async def test_every_request_with_hits_fails_without_redis() -> None:
    """Each gets a StoreError with the reason. A request without limits does not need Redis."""
    with RedisServer() as server:
        store = RedisStore(connect(server.url))
        await store.start()
        server.stop()
        outcomes = await hit(store, [Hit("a", 1, ttl=60)], [], [Hit("b", 1, ttl=60), Hit("c", 1, ttl=60)])
        assert [True, False, True] == [isinstance(outcome, StoreError) for outcome in outcomes]
        assert "Redis" in str(outcomes[0])
        with pytest.raises(StoreError):
            await store.ping()
        server.start()
        assert [[0]] == await hit(store, [Hit("a", 1, ttl=60)])
        await store.close()


async def test_a_demoted_primary_is_disconnected() -> None:
    """Its address may lead to another server by now, so the next call connects again."""
    with RedisServer() as before, RedisServer() as now:
        proxy = Proxy(before.port)
        await proxy.start()
        store = RedisStore(connect(f"redis://127.0.0.1:{proxy.port}"))

        async def apply(number: int) -> object:
            batch = Batch([[Hit(KEY, number, ttl=60)]], EVERYWHERE, Lane("lane", [], number))
            return await asyncio.wait_for(result_of(lambda on_applied: store.apply(batch, on_applied)), 10)

        outcomes = [await apply(1)]
        before.cli("REPLICAOF", "127.0.0.1", "1")
        proxy.target = now.port
        outcomes += [await apply(2), await apply(3)]
        await store.close()
        await proxy.stop()
        assert [[[0]], True, [[0]]] == [outcomes[0], "ReadOnlyError" in str(outcomes[1]), outcomes[2]]
        assert ("1", "3") == (before.cli("GET", KEY), now.cli("GET", KEY))


async def test_closing_waits_for_hits_in_flight(redis_url: str, redis_server: RedisServer) -> None:
    """Their charges are written before the connections are closed."""
    store = RedisStore(connect(redis_url))
    await store.start()
    answered: list[Sequence[Outcome]] = []
    store.hit([[Hit(KEY, 7, ttl=60)]], answered.append)
    await store.close()
    assert [[[0]]] == answered
    assert "7" == redis_server.cli("GET", KEY)


async def test_no_error_contains_the_password() -> None:
    """Neither that of a refused login nor that of a failed connection."""
    with RedisServer(password="hush-hush") as server:
        store = RedisStore(connect(f"redis://{server.address}", password="wrong-secret"))
        with pytest.raises(StoreError) as refused:
            await store.start()
        await store.close()
        server.stop()
        store = RedisStore(connect(server.url))
        with pytest.raises(StoreError) as gone:
            await store.start()
        await store.close()
    assert not any(
        secret in str(error.value) for secret in ("hush-hush", "wrong-secret") for error in (refused, gone)
    )


async def test_the_time_of_the_store_is_that_of_redis(store: RedisStore, redis_server: RedisServer) -> None:
    """Registers expire by this clock."""
    seconds = await store.time()
    assert seconds is not None
    assert abs(seconds - int(redis_server.cli("TIME").split()[0])) <= 1


async def test_a_redis_that_does_not_report_its_time_causes_no_error(
    redis_server: RedisServer, redis_url: str
) -> None:
    """An ACL may forbid TIME, or the server may be down."""
    redis_server.cli("ACL", "SETUSER", "untimely", "on", ">secret", "+@all", "-time", "~*")
    try:
        store = RedisStore(connect(redis_url, username="untimely", password="secret"))
        assert await store.time() is None
        await store.close()
    finally:
        redis_server.cli("ACL", "DELUSER", "untimely")
    away = RedisStore(connect("redis://127.0.0.1:1"))
    assert await away.time() is None
    await away.close()


async def test_holds_are_kept_for_a_day_after_their_last_use(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """Their time to live is set once an hour by the clock of the hits, and again after that clock was set
    back.
    """
    key = "{d|k=v}:held"
    check = Hit(KEY, 0, ttl=60, limit=1_000, gate=Gate.REFUSES | Gate.BUDGET)
    seen = []
    for now in (NOON, NOON + 3_599, NOON + 3_600, NOON - 60):
        hold = HoldHit(key, ttl=60, op=Op.TAKE, now=now, life=60, expiry=now + 60, size=Size(1, 0.0, 0, 1))
        await hit(store, [check, hold])
        seen.append(int(redis_server.cli("TTL", key)) > 10_000)
        redis_server.cli("EXPIRE", key, "10000")
    assert [True, False, True, True] == seen
