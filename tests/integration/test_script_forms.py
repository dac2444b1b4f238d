"""The script applies plain batches, batches with entries of ledgers, and others in three places, with one
result.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis.asyncio as aioredis

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.ledger.entries import Period, record
from ratelimit_service.core.model import COUNTER_MAX, Hit
from ratelimit_service.ports import OnOutcomes
from ratelimit_service.stores.batch import Batch, Counts, OnApplied, result_of
from ratelimit_service.stores.lanes import EVERYWHERE, Lane
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_fleets import RedisCluster

Form = Callable[[list[Hit]], list[Hit]]


def recorded(hit: Hit) -> Hit:
    into = record(hit.key.partition("}")[0] + "}", Period(0, 0, ":ledger:hour:2026-11-21", "T08Z"), 86_400)
    return Hit(hit.key, hit.amount, ttl=hit.ttl, gate=hit.gate | Gate.LEDGER, into=into)


FORMS: dict[str, Form] = {
    "plain": lambda hits: hits,
    "with a ledger": lambda hits: [recorded(hit) if hit.amount else hit for hit in hits],
    "in turn": lambda hits: [*hits, Hit("{d|k=refund}:day:2026-11-21", -1, ttl=60)],
    "in turn, with a ledger": lambda hits: [*map(recorded, hits), Hit("{d|k=r}:day:2026-11-21", -1, ttl=60)],
}
NUMBERS = (None, "7", "-7", str(COUNTER_MAX - 1), "9" * 18, str(COUNTER_MAX))
UNUSUAL: dict[str, Sequence[str | list[str] | None]] = {
    "numbers": NUMBERS,
    "numbers and others": (*NUMBERS, "9" * 19, "-" + "9" * 30, "007", "+7", "7\n", "1e3", "", []),
}


def key(name: object) -> str:
    return f"{{d|k={name}}}:day:2026-11-21"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


async def apply(store: RedisStore, batch: Batch) -> Counts:
    def begin(on_applied: OnApplied) -> None:
        store.apply(batch, on_applied)

    counts = await asyncio.wait_for(result_of(begin), 10)
    assert not isinstance(counts, StoreError)
    return counts


async def set_value(client: aioredis.Redis, name: str, value: str | list[str] | None) -> None:
    await client.delete(name)
    if isinstance(value, list):
        sent: Any = client.rpush(name, "item")
        await sent
    elif value is not None:
        await client.set(name, value)


async def value_of(client: aioredis.Redis, name: str) -> str | None:
    found: str | None = None
    if await client.type(name) == "string":
        found = str(await client.get(name))
    return found


@pytest.mark.parametrize("amount", [1, 0, COUNTER_MAX])
@pytest.mark.parametrize("held", UNUSUAL)
@pytest.mark.parametrize("form", FORMS)
async def test_a_batch_counts_like_one_call_for_each_hit(
    store: RedisStore, client: aioredis.Redis, form: str, held: str, amount: int
) -> None:
    """Whatever the counters hold, in any place of the batch: the hits after an unusual one are applied,
    too.
    """
    values = UNUSUAL[held]
    names = [key(number) for number in range(len(values))]
    hits = [Hit(name, amount or number % 2, ttl=500) for number, name in enumerate(names)]
    expected: list[tuple[str, str | None]] = []
    for name, hit, value in zip(names, hits, values, strict=True):
        await set_value(client, name, value)
        ((count,),) = await apply(store, Batch([[hit]]))
        expected.append((str(count), await value_of(client, name)))
    for turn in range(len(values)):
        order = [*range(turn, len(values)), *range(turn)]
        for number in order:
            await set_value(client, names[number], values[number])
        counts = await apply(store, Batch([[hit] for hit in FORMS[form]([hits[number] for number in order])]))
        found = {
            number: (str(count), await value_of(client, names[number]))
            for number, (count,) in zip(order, counts, strict=False)
        }
        assert dict(enumerate(expected)) == found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [1, 4])
async def test_a_batch_that_is_sent_again_only_reads(store: RedisStore, form: str, number: int) -> None:
    """By the same lane, under the same number. The next number counts."""
    groups = [[hit] for hit in FORMS[form]([Hit(key(place), 5, ttl=60) for place in range(number)])]
    lane = Lane("lane-1", [], 1)
    seen = []
    for lane.number in (1, 1, 2, 2):
        seen.append([count for (count,) in await apply(store, Batch(groups, EVERYWHERE, lane))][:number])
    assert [[0] * number, [5] * number, [5] * number, [10] * number] == seen


@pytest.mark.parametrize("form", FORMS)
async def test_new_counters_of_a_batch_have_their_own_times_to_live(
    store: RedisStore, client: aioredis.Redis, form: str
) -> None:
    """Beside existing ones, which keep theirs, or get one if they have none."""
    for order in itertools.permutations(("new-1", "new-2", "lasting", "kept")):
        await client.flushall()
        await client.set(key("lasting"), 3)
        await client.set(key("kept"), 4, ex=9_000)
        hits = [Hit(key(name), 2, ttl=1_000 * (place + 1)) for place, name in enumerate(order)]
        counts = await apply(store, Batch([[hit] for hit in FORMS[form](hits)]))
        held = {"new-1": 0, "new-2": 0, "lasting": 3, "kept": 4}
        assert [held[name] for name in order] == [count for (count,) in counts][:4]
        for place, name in enumerate(order):
            assert str(held[name] + 2) == await client.get(key(name))
            lifetime = 9_000 if name == "kept" else 1_000 * (place + 1)
            assert lifetime - 60 <= await client.ttl(key(name)) <= lifetime


async def test_entries_have_what_an_unusual_batch_has_counted(
    store: RedisStore, client: aioredis.Redis
) -> None:
    """A counter that is not a number fails its hit, and its entry is not written; those after it are."""
    values: Sequence[str | list[str] | None] = ("7", "x", str(COUNTER_MAX), [], "9")
    for number, value in enumerate(values):
        await set_value(client, key(number), value)
    hits = [recorded(Hit(key(number), 5, ttl=60)) for number in range(len(values))]
    await apply(store, Batch([[hit] for hit in hits]))
    books: list[Any] = [client.hgetall(hit.into.book) for hit in hits if hit.into is not None]
    charged = {"T08Z:charged": "5"}
    assert [charged, {}, charged, {}, charged] == [await book for book in books]


async def test_calls_for_a_cluster_count_alike_together_and_alone(redis_cluster: RedisCluster) -> None:
    """Each key is in a slot of its own, and has a call of its own. Those for one server are sent together."""
    cluster = ClusterStore(lambda address: at_address(address, Link()), redis_cluster.addresses())
    store = SettlingStore(cluster)
    await store.start()

    async def hit(hits: list[Hit]) -> list[str]:
        def begin(on_outcomes: OnOutcomes) -> None:
            store.hit([[hit] for hit in hits], on_outcomes)

        return [str(outcome) for outcome in await asyncio.wait_for(result_of(begin), 10)]

    async def values() -> list[str | None]:
        return [await clients.get(name) if await clients.type(name) == b"string" else None for name in names]

    held = UNUSUAL["numbers and others"]
    names = [f"{{d|k=together{number}}}:day:2026-11-21" for number in range(len(held))]
    clients: Any = aioredis.RedisCluster.from_url(f"redis://{redis_cluster.url.partition(',')[0]}")
    for amount in (0, 1, -1, COUNTER_MAX):
        hits = [Hit(name, amount, ttl=60) for name in names]
        seen: list[object] = []
        for together in (False, True):
            for name, value in zip(names, held, strict=True):
                await set_value(clients, name, value)
            outcomes = await hit(hits) if together else [each for hit_ in hits for each in await hit([hit_])]
            seen.append((outcomes, await values()))
        assert seen[0] == seen[1]
    await clients.aclose()
    await store.close()
