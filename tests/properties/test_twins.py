"""The memory store and the Lua script are twins: both return the same for any hits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit_service.core.decision import Count
from ratelimit_service.core.model import COUNTER_MAX, Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.client import connect
from ratelimit_service.stores.redis.server import RedisStore
from testing.servers import RedisServer

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


async def replay(store: CounterStore, batches: list[list[list[Hit]]]) -> list[list[list[Count]]]:
    answers = []
    for batch in batches:
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        store.hit(batch, answer.set_result)
        answers.append([list(outcome) for outcome in await answer if not isinstance(outcome, Exception)])
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


@given(batches=BATCHES)
def test_one_batch_is_the_same_as_one_request_after_another(batches: list[list[list[Hit]]]) -> None:
    """How requests form batches changes no count."""

    async def both() -> None:
        together = await replay(MemoryStore(lambda: 0.0), [[group for batch in batches for group in batch]])
        apart = await replay(MemoryStore(lambda: 0.0), [[group] for batch in batches for group in batch])
        assert together == [[outcome for (outcome,) in apart]]

    asyncio.run(both())
