"""The memory store and the Lua script are twins: both return the same for any hits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit_service.core.decision import Count
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op, Size
from ratelimit_service.core.holds.state import Holds
from ratelimit_service.core.ledger.entries import Period, record
from ratelimit_service.core.model import COUNTER_MAX, Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.exact_load import entries_in
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

KEYS = ["a", "b", "c"]
AMOUNTS = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([COUNTER_MAX, COUNTER_MAX - 1, 1 - COUNTER_MAX, -COUNTER_MAX, 2**52]),
)
HITS = st.builds(
    Hit,
    st.sampled_from(KEYS),
    AMOUNTS,
    ttl=st.just(600),
    limit=st.one_of(st.integers(0, 30), st.just(COUNTER_MAX)),
    gate=st.integers(0, 3),
)
BATCHES = st.lists(st.lists(st.lists(HITS, max_size=4), min_size=1, max_size=4), min_size=1, max_size=5)


BUCKET = "{d|k=a}:"
ON_A_COUNTER = st.builds(
    Hit,
    st.sampled_from([f"{BUCKET}hour:1", f"{BUCKET}day:1", "{d|k=b}:hour:1"]),
    st.one_of(st.just(0), st.integers(0, 60)),
    ttl=st.just(600),
    limit=st.integers(50, 400),
    gate=st.sampled_from([9, 9, 9, 13, 8]),
)
SAME = [
    HoldHit(f"{BUCKET}held", ttl=600, op=Op.TAKE, now=now, life=60, expiry=expiry, size=Size(0, 0.0, 25, 200))
    for now, expiry in ((1_000, 1_060), (1_001, 1_020), (1_059, 1_115))
]
"""Checks of one second share their hit, and the memory store applies such a hit again in fewer steps."""
ON_HOLDS = st.builds(
    lambda op, now, left, fixed, strict, charge, tokens, name: HoldHit(
        f"{BUCKET}held",
        ttl=600,
        op=op,
        now=now,
        life=60,
        expiry=now - now % 5 + left,
        size=Size(fixed, strict, 25, 200),
        charge=charge,
        tokens=tokens,
        made=max(0, now - 7),
        part=0.25 if left == 20 else 1.0,
        id=name,
    ),
    st.sampled_from(Op),
    st.integers(1_000, 1_400),
    st.sampled_from([60, 60, 60, 20]),
    st.sampled_from([0, 0, 40]),
    st.sampled_from([0.0, 1.2816]),
    st.integers(1, 120),
    st.sampled_from([0, 25, 60]),
    st.sampled_from(["", "", "x", "y"]),
) | st.sampled_from(SAME)
ANY_GROUP = st.lists(ON_A_COUNTER, max_size=3).flatmap(
    lambda hits: st.lists(ON_HOLDS, max_size=2).map(lambda more: [*hits, *more])
)
CHECK = st.lists(ON_A_COUNTER.filter(lambda hit: not hit.amount), max_size=2).flatmap(
    lambda hits: st.sampled_from(SAME).map(lambda take: [*hits, take])
)
WITH_HOLDS = st.lists(
    st.lists(st.tuples(ANY_GROUP | CHECK, st.sampled_from([1, 1, 2, 5, 20])), min_size=1, max_size=4).flatmap(
        lambda groups: st.permutations([group for group, times in groups for _ in range(times)])
    ),
    min_size=1,
    max_size=6,
)
"""Equal checks are one object, as those of one second are, and Redis gets them as one."""


async def replay(store: CounterStore, batches: list[list[list[Hit]]]) -> list[list[list[Count]]]:
    answers = []
    for batch in batches:
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        store.hit(batch, answer.set_result)
        outcomes = await answer
        for outcome in outcomes:
            if isinstance(outcome, Exception):  # of Redis: without its counts, there is nothing to compare
                raise outcome
        answers.append([list(outcome) for outcome in outcomes if not isinstance(outcome, Exception)])
    return answers


@pytest.fixture(scope="module")
def server(redis_server: RedisServer) -> RedisServer:
    return redis_server


@given(batches=BATCHES)
@settings(max_examples=150)
def test_memory_and_redis_return_the_same(server: RedisServer, batches: list[list[list[Hit]]]) -> None:
    """Random charges, refunds, checks and gates on few counters, in random batches."""

    async def both() -> None:
        redis_store, memory = RedisStore(connect(server.url)), MemoryStore(lambda: 0.0)
        await redis_store._client.flushall()
        await redis_store.start()
        assert await replay(memory, batches) == await replay(redis_store, batches)
        reading = [[[Hit(key, 0, ttl=600) for key in KEYS]]]
        assert await replay(memory, reading) == await replay(redis_store, reading)
        await redis_store.close()

    asyncio.run(both())


@given(batches=WITH_HOLDS)
@settings(max_examples=150)
def test_memory_and_redis_hold_the_same(server: RedisServer, batches: list[list[list[Hit]]]) -> None:
    """Random checks, charges and releases, with ids and without, as time goes back and forth."""

    async def both() -> None:
        redis_store, memory = RedisStore(connect(server.url)), MemoryStore(lambda: 0.0)
        await redis_store._client.flushall()
        await redis_store.start()
        assert await replay(memory, batches) == await replay(redis_store, batches)
        kept = await redis_store._client.hgetall(f"{BUCKET}held")
        holds = memory.holds.find(f"{BUCKET}held") or Holds()
        slots = {
            str(expiry).encode(): f"{tokens}:{many}".encode()
            for expiry, (tokens, many) in holds.slots.items()
        }
        assert slots == {field: value for field, value in kept.items() if field[:1].isdigit()}
        for name in ("marked", "refusals", "refused_at"):
            assert getattr(holds, name) == int(kept.get(name.encode(), 0))
        for name in ("mean", "square", "share", "flight"):
            assert getattr(holds, name) == float(kept.get(name.encode(), 1 if name == "share" else 0))
        await redis_store.close()

    asyncio.run(both())


IN_LEDGER = st.builds(
    lambda bucket, amount, limit, gate, hour: Hit(
        f"{bucket}:day:1",
        amount,
        ttl=600,
        limit=limit,
        gate=gate | Gate.LEDGER,
        into=record(bucket, Period(0, 0, ":ledger:hour:2026-11-21", hour), 600),
    ),
    st.sampled_from(["{d|k=a}", "{d|k=b}"]),
    st.one_of(st.integers(-20, 20).filter(bool), st.sampled_from([COUNTER_MAX, -COUNTER_MAX])),
    st.integers(0, 30),
    st.integers(0, 15),
    st.sampled_from(["T08Z", "T09Z"]),
)
REFUSALS = st.builds(
    lambda hour: Hit(
        (into := record("{d|k=a}", Period(0, 0, ":ledger:hour:2026-11-21", hour), 600)).book,
        1,
        ttl=600,
        gate=Gate.LEDGER | Gate.ENTRY,
        into=into,
    ),
    st.sampled_from(["T08Z", "T09Z"]),
)
GROUPS_IN_LEDGER = st.one_of(
    st.lists(st.one_of(IN_LEDGER, ON_A_COUNTER), max_size=4), st.lists(REFUSALS, min_size=1, max_size=1)
)


@given(batches=st.lists(st.lists(GROUPS_IN_LEDGER, min_size=1, max_size=5), min_size=1, max_size=5))
@settings(max_examples=150)
def test_memory_and_redis_record_the_same(server: RedisServer, batches: list[list[list[Hit]]]) -> None:
    """Random charges, refunds, gates and refused requests, some of which have no entry."""

    async def both() -> None:
        redis_store, memory = RedisStore(connect(server.url)), MemoryStore(lambda: 0.0)
        await redis_store._client.flushall()
        await redis_store.start()
        answers = [await replay(store, batches) for store in (memory, redis_store)]
        for batch, *both in zip(batches, *answers, strict=True):
            counts = [
                [each for group, each in zip(batch, one, strict=True) if not is_refusal(group)]
                for one in both
            ]
            assert counts[0] == counts[1]
        assert await entries_in(memory, "{d|") == await entries_in(redis_store, "{d|")
        await redis_store.close()

    asyncio.run(both())


def is_refusal(group: Sequence[Hit]) -> bool:
    return any(hit.gate & Gate.ENTRY for hit in group)


@given(batches=BATCHES)
def test_one_batch_is_the_same_as_one_request_after_another(batches: list[list[list[Hit]]]) -> None:
    """How requests form batches changes no count."""

    async def both() -> None:
        together = await replay(MemoryStore(lambda: 0.0), [[group for batch in batches for group in batch]])
        apart = await replay(MemoryStore(lambda: 0.0), [[group] for batch in batches for group in batch])
        assert together == [[outcome for (outcome,) in apart]]

    asyncio.run(both())
