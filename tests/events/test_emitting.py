"""Events as they are made: ids that all replicas agree on, and nothing of a stranger's that could hurt a
reader.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Limit, Rule, StatKey, Unit, Use, Window
from ratelimit_service.events import emitting
from ratelimit_service.events.emitting import Emitter
from ratelimit_service.events.model import shown
from ratelimit_service.stores.events import MemoryEvents

NOW = 1_000
LIMIT = Limit(100, Window(Unit.DAY), name="daily")
RULE = Rule(StatKey("llm", ("team",)), (LIMIT,))


def use(key: str = "{llm|team=dba}:day:1970-01-01T00:00Z", after: int = 80) -> Use:
    """A bucket of which so much is used."""
    return Use(LIMIT, key, end=86_400, before=0, after=after, over=False, near=100)


class Recorded(MemoryEvents):
    """A store that is away for so many calls."""

    def __init__(self, away: int = 0) -> None:
        super().__init__(lambda: float(NOW))
        self.away = away
        self.texts: list[str] = []

    async def emit(self, event_id: str, text: str, kept: int) -> bool:
        if self.away:
            self.away -= 1
            raise StoreError("away")
        new = await super().emit(event_id, text, kept)
        if new:
            self.texts.append(text)
        return new


async def emitted(emitter: Emitter, store: Recorded, number: int) -> list[dict[str, object]]:
    """What arrives in the store."""
    task = asyncio.create_task(emitter.run())
    async with asyncio.timeout(60):
        while len(store.texts) < number:
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return [json.loads(text) for text in store.texts]


def emitter_of(store: Recorded, name: str = "a") -> Emitter:
    return Emitter(store, lambda: float(NOW), lambda: name)


async def test_replicas_give_one_event_one_id() -> None:
    store = Recorded()
    for name in "ab":
        emitter = emitter_of(store, name)
        emitter.crossed(RULE, use(), 0.8, NOW)
        emitter.crossed(RULE, use(after=100), 1.0, NOW)
        await emitted(emitter, store, 2)
    assert ["ratelimit.budget.threshold", "ratelimit.budget.exhausted"] == [
        json.loads(text)["type"] for text in store.texts
    ]


async def test_another_window_is_another_event() -> None:
    store = Recorded()
    emitter = emitter_of(store)
    emitter.refused(RULE, use(), NOW)
    emitter.refused(RULE, use("{llm|team=dba}:day:1970-01-02T00:00Z"), NOW)
    first, second = await emitted(emitter, store, 2)
    assert first["id"] != second["id"]
    assert {
        "domain": "llm",
        "bucket": "llm|team=dba",
        "rule": "daily",
        "window": "day",
        "limit": 100,
        "used": 80,
        "resets_at": "1970-01-02T00:00:00Z",
    } == first["data"]


async def test_a_window_that_ends_after_the_last_year_of_a_date_is_told_with_its_last_second() -> None:
    store = Recorded()
    emitter = emitter_of(store)
    emitter.refused(RULE, use()._replace(end=10**12), NOW)
    (event,) = await emitted(emitter, store, 1)
    data = event["data"]
    assert isinstance(data, dict)
    assert "9999-12-31T23:59:59Z" == data["resets_at"]


async def test_what_waits_for_the_store_is_bounded_and_the_newest_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emitting, "_PAUSE", 0.0)
    store = Recorded(away=3)
    emitter = emitter_of(store)
    for day in range(emitting.MOST_WAITING + 5):
        emitter.refused(RULE, use(f"{{llm|team={day}}}:day:1970-01-01T00:00Z"), NOW)
    assert 5 == emitter.lost
    events = await emitted(emitter, store, emitting.MOST_WAITING)
    assert f"llm|team={emitting.MOST_WAITING + 4}" == events[-1]["subject"]


def test_a_text_of_a_stranger_is_valid_and_printable_and_short() -> None:
    assert "a\\nb" == shown("a\nb")
    assert "\\u202eevil" == shown("\u202eevil")
    assert "\\udcff" == shown("\udcff")
    assert f"{'x' * 1_024}… (8000 characters)" == shown("x" * 8_000)
