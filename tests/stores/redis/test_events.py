"""The stream of events in Redis: its consumer groups, their consumers, and the notes about receivers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from ratelimit_service.events import delivery
from ratelimit_service.events.delivery import Delivery
from ratelimit_service.events.model import THRESHOLD, Event
from ratelimit_service.events.receivers import Receiver
from ratelimit_service.stores.redis import events as module
from ratelimit_service.stores.redis.events import RedisEvents
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.waiting import until
from tests.events.receiver import Webhook

STREAM, NOTES = "{events}:stream", "{events}:receivers"
LONG_AGO = 1


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url, decode_responses=True)


@pytest.fixture
async def events(redis_url: str) -> AsyncIterator[RedisEvents]:
    store = RedisStore(connect(redis_url))
    await store.start()
    yield store.events
    await store.close()


def groups(client: redis.Redis) -> list[str]:
    found: Any = client.xinfo_groups(STREAM)
    return sorted(each["name"] for each in found)


def consumers(client: redis.Redis, receiver: str) -> list[str]:
    found: Any = client.xinfo_consumers(STREAM, receiver)
    return sorted(each["name"] for each in found)


async def test_a_group_without_a_note_has_a_week_from_now(client: redis.Redis, events: RedisEvents) -> None:
    """It may belong to replicas of a version that makes no notes."""
    await events.open("old")
    await events.emit("1", "text", 60)
    before = time.time()
    assert [] == await events.forget_unused(["ops"])
    noted: Any = client.hgetall(NOTES)
    assert {"old", "ops"} == noted.keys()
    assert int(noted["old"]) >= int(before)
    client.hset(NOTES, "old", LONG_AGO)
    assert ["old"] == await events.forget_unused(["ops"])
    assert [] == groups(client)


async def test_a_group_whose_consumer_was_here_lately_stays(client: redis.Redis, events: RedisEvents) -> None:
    """A replica of a version without notes reads it."""
    await events.open("old")
    await events.emit("1", "text", 60)
    await events.take("old", "replica-of-before", 10)
    client.hset(NOTES, "old", LONG_AGO)
    assert [] == await events.forget_unused(["ops"])
    assert 1 == await events.waiting("old")


async def test_a_group_that_is_read_without_events_stays(client: redis.Redis, events: RedisEvents) -> None:
    """A replica of a version without notes reads it. Before Redis 7.2, its consumer is as idle as if it had
    ended.

    A week after the first event that nobody took, the group is deleted.
    """
    await events.open("quiet")
    assert [] == await events.take("quiet", "replica-of-before", 10)
    client.hset(NOTES, "quiet", LONG_AGO)
    assert [] == await events.forget_unused(["ops"])
    await events.emit("1", "text", 60)
    assert [] == await events.forget_unused(["ops"])
    client.hset(NOTES, "quiet", LONG_AGO)
    client.xgroup_delconsumer(STREAM, "quiet", "replica-of-before")
    assert ["quiet"] == await events.forget_unused(["ops"])


async def test_a_forgotten_receiver_goes_on_after_its_last_event(
    client: redis.Redis, events: RedisEvents
) -> None:
    """A replica may be without a connection to Redis for longer than a week."""
    await events.open("ops")
    await events.emit("1", "delivered", 60)
    (taken,) = await events.take("ops", "a", 10)
    await events.done("ops", taken.place)
    client.xgroup_delconsumer(STREAM, "ops", "a")
    await events.emit("2", "later", 60)
    client.hset(NOTES, "ops", LONG_AGO)
    assert ["ops"] == await events.forget_unused([])
    assert [] == await events.forget_unused(["ops"])
    assert [] == groups(client)
    assert ["later"] == [each.text for each in await events.take("ops", "a", 10)]
    assert [] == client.hkeys(NOTES)


async def test_the_place_of_a_forgotten_receiver_is_kept_as_long_as_events_before_it(
    client: redis.Redis, events: RedisEvents
) -> None:
    await events.open("ops")
    await events.emit("1", "text", 60)
    (taken,) = await events.take("ops", "a", 10)
    client.xgroup_delconsumer(STREAM, "ops", "a")
    await events.emit("2", "text", 60)
    client.hset(NOTES, "ops", LONG_AGO)
    assert ["ops"] == await events.forget_unused([])
    assert {"ops": taken.place} == client.hgetall(NOTES)
    client.xtrim(STREAM, maxlen=1, approximate=False)
    await events.forget_unused([])
    assert [] == client.hkeys(NOTES)


async def test_a_note_without_a_group_goes_after_a_week(client: redis.Redis, events: RedisEvents) -> None:
    """A group can be deleted by hand, and Redis can lose its data."""
    client.hset(NOTES, mapping={"gone": LONG_AGO, "broken": "x", "new": int(time.time())})
    assert [] == await events.forget_unused([])
    assert ["new"] == client.hkeys(NOTES)


async def test_consumers_of_replicas_that_have_ended_are_deleted(
    client: redis.Redis, events: RedisEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica has another name after each start. One with events stays: another replica takes them over."""
    await events.open("ops")
    for name in ("1", "2"):
        await events.emit(name, "text", 60)
        (taken,) = await events.take("ops", f"replica-{name}", 1)
        if name == "1":
            await events.done("ops", taken.place)
    await events.forget_unused(["ops"])
    assert ["replica-1", "replica-2"] == consumers(client, "ops")
    monkeypatch.setattr(module, "IDLE", -1)
    await events.forget_unused(["ops"])
    assert ["replica-2"] == consumers(client, "ops")
    assert 1 == await events.waiting("ops")


async def test_a_new_receiver_gets_no_event_from_before_it_was_delivered_to(
    client: redis.Redis, events: RedisEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries may begin before anything else opens the receiver in the store."""
    monkeypatch.setattr(delivery, "_EVERY", 0.01)

    def event(name: str) -> Event:
        return Event(name, THRESHOLD, "d", name, 0.0, {"domain": "d"})

    await events.open("ops")
    await events.emit("before", event("before").text, 60)
    with Webhook() as webhook:
        made = Delivery(Receiver("new", webhook.url), events, time.time, lambda: "a")
        task = asyncio.create_task(made.run())
        try:
            await until(lambda: "new" in groups(client))
            await events.emit("after", event("after").text, 60)
            await until(lambda: webhook.got)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert ["after"] == [each["subject"] for each in webhook.events]
