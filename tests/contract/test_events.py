"""The contract of every store about queued events (ports.EventStore)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from ratelimit_service.ports import EventStore
from ratelimit_service.stores import events as in_memory
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis import events as in_redis

from .kinds import KINDS, stores_of

KEPT = 3_600


@dataclass
class Waiting:
    """Two connections to one store, from two replicas, a and b."""

    one: EventStore
    other: EventStore

    async def texts(self, replica: str = "a", receiver: str = "ops", most: int = 10) -> list[str]:
        """Return the events that a replica takes for a receiver."""
        store = self.one if replica == "a" else self.other
        return [taken.text for taken in await store.take(receiver, replica, most)]


@pytest.fixture(params=KINDS)
async def waiting(request: pytest.FixtureRequest) -> AsyncIterator[Waiting]:
    if "memory" in request.param:
        memory = MemoryStore(lambda: 1_000.0)
        yield Waiting(memory.events, memory.events)
        return
    stores = stores_of(request, request.param)
    for store in stores:
        await store.start()
    yield Waiting(stores[0].events, stores[1].events)
    for store in stores:
        await store.close()


async def test_an_event_is_new_once_whichever_replica_emits_it(waiting: Waiting) -> None:
    assert (await waiting.one.emit("1", "first", KEPT)).new
    assert not (await waiting.other.emit("1", "again", KEPT)).new
    assert (await waiting.other.emit("2", "second", KEPT)).new


async def test_each_receiver_gets_each_event_from_one_replica(waiting: Waiting) -> None:
    for receiver in ("ops", "finance"):
        await waiting.one.open(receiver)
    for number in range(4):
        await waiting.one.emit(f"e{number}", f"text {number}", KEPT)
    taken = await waiting.texts("a", most=2) + await waiting.texts("b", most=10)
    assert [f"text {number}" for number in range(4)] == taken
    assert [] == await waiting.texts("a")
    assert 4 == len(await waiting.texts("b", "finance"))


async def test_a_receiver_gets_only_events_emitted_after_it_was_opened(waiting: Waiting) -> None:
    await waiting.one.emit("before", "before", KEPT)
    await waiting.one.open("late")
    await waiting.one.emit("after", "after", KEPT)
    assert ["after"] == await waiting.texts("a", "late")


async def test_a_delivered_event_leaves_the_queue(waiting: Waiting) -> None:
    await waiting.one.open("ops")
    assert 0 == await waiting.one.waiting("ops")
    for number in range(3):
        await waiting.one.emit(f"w{number}", "text", KEPT)
    assert 3 == await waiting.other.waiting("ops")
    (first, *_) = await waiting.one.take("ops", "a", 2)
    assert 3 == await waiting.other.waiting("ops")
    await waiting.one.hold("ops", "a", first.place)
    await waiting.one.done("ops", first.place)
    assert 2 == await waiting.other.waiting("ops")


async def test_another_replica_takes_over_events_that_are_not_held(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (in_memory, in_redis):
        monkeypatch.setattr(module, "TAKEN_AGAIN", 0)
    await waiting.one.open("ops")
    await waiting.one.emit("left", "left behind", KEPT)
    assert ["left behind"] == await waiting.texts("a")
    assert ["left behind"] == await waiting.texts("b")


async def test_a_receiver_is_forgotten_when_no_replica_has_had_it_for_a_week(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a deployment, one replica has the old receivers, and another one the new ones."""
    for receiver in ("old", "kept", "new", "unnoted"):
        await waiting.one.open(receiver)
    await waiting.one.emit("f1", "before", KEPT)
    assert [] == await waiting.one.forget_unused(["old", "kept"])
    assert [] == await waiting.other.forget_unused(["kept", "new"])
    assert [1, 1, 1, 1] == [await waiting.one.waiting(name) for name in ("old", "kept", "new", "unnoted")]
    for module in (in_memory, in_redis):
        monkeypatch.setattr(module, "FORGOTTEN_AFTER", -1)
    assert ["old", "unnoted"] == sorted(await waiting.other.forget_unused(["kept", "new"]))
    assert [] == await waiting.other.forget_unused(["kept", "new"])
    assert [0, 1, 1] == [await waiting.one.waiting(name) for name in ("old", "kept", "new")]
    await waiting.one.open("old")
    await waiting.one.emit("f2", "after", KEPT)
    assert ["after"] == await waiting.texts("a", "old")
    assert ["before", "after"] == await waiting.texts("a", "kept")


async def test_a_full_queue_drops_the_oldest_event(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (in_memory, in_redis):
        monkeypatch.setattr(module, "MOST_EVENTS", 3)
    await waiting.one.open("ops")
    for number in range(5):
        await waiting.one.emit(f"d{number}", f"{number}", KEPT)
    assert ["2", "3", "4"] == await waiting.texts("a")


async def test_each_event_that_a_full_queue_drops_is_reported_for_the_receivers_that_lack_it(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for those that have it, and not for those for which a replica is delivering it."""
    for module in (in_memory, in_redis):
        monkeypatch.setattr(module, "MOST_EVENTS", 3)

    async def dropped(number: int) -> list[tuple[str, str]]:
        return sorted((await waiting.one.emit(f"o{number}", f"{number}", KEPT)).dropped)

    for receiver in ("fast", "slow", "away"):
        await waiting.one.open(receiver)
    assert [[], [], []] == [await dropped(number) for number in range(3)]
    assert ["0"] == await waiting.texts("b", "slow", most=1)  # and delivers it
    for taken in await waiting.one.take("fast", "a", 10):
        await waiting.one.done("fast", taken.place)
    assert [("away", "0")] == await dropped(3)
    assert [("away", "1"), ("slow", "1")] == await dropped(4)
    assert [] == sorted((await waiting.other.emit("o4", "again", KEPT)).dropped)
    assert ["3", "4"] == await waiting.texts("a", "fast")
    assert ["2", "3", "4"] == await waiting.texts("a", "slow") == await waiting.texts("a", "away")
    assert [] == await dropped(5)  # a replica is delivering the oldest one to each of them
