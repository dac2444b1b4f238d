"""The creation of events: all replicas choose the same ids, and no caller's text can harm a reader."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from ratelimit_service.core.amendments.model import (
    AuditLine,
    Change,
    EditResult,
    Put,
    Remove,
    Reset,
    override,
    top_up,
)
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.budgets.forecasting import Foreseen
from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Limit, Rule, StatKey, Unit, Use, Window
from ratelimit_service.events import emitting
from ratelimit_service.events.emitting import Emitter
from ratelimit_service.events.model import event_text
from ratelimit_service.ports import EmitResult
from ratelimit_service.stores.amendments import MemoryAmendments
from ratelimit_service.stores.events import MemoryEvents
from testing.waiting import until

NOW = 1_000
LIMIT = Limit(100, Window(Unit.DAY), name="daily")
RULE = Rule(StatKey("llm", ("team",)), (LIMIT,))


def use(key: str = "{llm|team=dba}:day:1970-01-01T00:00Z", after: int = 80) -> Use:
    """Return the use of a bucket."""
    return Use(LIMIT, key, end=86_400, before=0, after=after, over=False, near=100)


class Recorded(MemoryEvents):
    """A store that fails this many calls."""

    def __init__(self, away: int = 0) -> None:
        super().__init__(lambda: float(NOW))
        self.away = away
        self.texts: list[str] = []

    async def emit(self, event_id: str, text: str, kept: int) -> EmitResult:
        if self.away:
            self.away -= 1
            raise StoreError("away")
        result = await super().emit(event_id, text, kept)
        if result.new:
            self.texts.append(text)
        return result


async def emitted(emitter: Emitter, store: Recorded, number: int) -> list[dict[str, object]]:
    """Return the events that the store has received."""
    task = asyncio.create_task(emitter.run())
    await until(lambda: len(store.texts) >= number)
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


async def test_the_end_of_a_window_is_at_most_the_last_second_of_the_year_9999() -> None:
    store = Recorded()
    emitter = emitter_of(store)
    emitter.refused(RULE, use()._replace(end=10**12), NOW)
    (event,) = await emitted(emitter, store, 1)
    data = event["data"]
    assert isinstance(data, dict)
    assert "9999-12-31T23:59:59Z" == data["resets_at"]


async def test_events_waiting_for_the_store_are_bounded_and_the_newest_are_kept(
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


def test_texts_of_callers_become_valid_printable_and_short() -> None:
    assert "a\\nb" == event_text("a\nb")
    assert "\\u202eevil" == event_text("\u202eevil")
    assert "\\udcff" == event_text("\udcff")
    assert f"{'x' * 1_024}… (8000 characters)" == event_text("x" * 8_000)


TEAM = parse("llm", "team=dba")
MORE = top_up(TEAM, 500, "key", windows=1, since=NOW)
LESS = override(TEAM, 50)
BLOCK = override(TEAM, 0)


@pytest.mark.parametrize(
    "edited, verb, amount",
    [
        (EditResult(MORE.id, None, MORE), "top_up", 500),
        (EditResult(LESS.id, None, LESS), "override", 50),
        (EditResult(BLOCK.id, LESS, BLOCK), "block", 0),
        (EditResult(BLOCK.id, BLOCK, LESS), "override", 50),
        (EditResult(MORE.id, MORE, None), "removed", None),
        (EditResult("reset", reset=Reset(TEAM, "", (("{llm|team=dba}:day:1970-01-01", 80),))), "reset", None),
    ],
)
async def test_each_change_of_a_limit_is_an_event(edited: EditResult, verb: str, amount: int | None) -> None:
    """All replicas emit one event, with its author. Changes before the start are not events."""
    store = Recorded()
    old = AuditLine(6, NOW, "al", "", "k", EditResult(LESS.id, None, LESS))
    line = AuditLine(7, NOW, "al\n", "launch", "k", edited)
    emitters = [emitter_of(store, name) for name in "ab"]
    for emitter in emitters:
        await emitter.audited([old])
        await emitter.audited([line, old])
        await emitter.audited([line, old])
        await emitted(emitter, store, 1)
    (event,) = await emitted(emitters[0], store, 1)
    data = event["data"]
    assert isinstance(data, dict)
    assert ("ratelimit.amendment.changed", verb, amount) == (event["type"], data["verb"], data.get("amount"))
    assert ("llm", "team=dba", "al\\n", "launch", 7) == tuple(
        data[name] for name in ("domain", "target", "author", "reason", "version")
    )


async def test_each_edit_of_one_change_is_an_event_of_all_replicas() -> None:
    """Resets have no id of their own, and a change can put and remove one amendment."""
    teams = [parse("llm", f"team={team}") for team in "abc"]
    resets = [Reset(team, "", ()) for team in teams]
    amendments = MemoryAmendments()
    await amendments.apply(
        Change("key", "al", "why", (*resets, Put(LESS), Remove(LESS.id), Put(override(TEAM, 70))), NOW)
    )
    lines = await amendments.audit()
    store = Recorded()
    for name in "ab":
        emitter = emitter_of(store, name)
        await emitter.audited([])
        await emitter.audited(lines)
        emitter.store_is(False)  # comes last, and is an event of each replica
        await emitted(emitter, store, 7 if name == "a" else 8)
    events = [json.loads(text) for text in store.texts]
    assert 8 == len({each["id"] for each in events})
    assert [
        ("reset", "team=a"),
        ("reset", "team=b"),
        ("reset", "team=c"),
        ("override", LESS.id),
        ("removed", LESS.id),
        ("override", LESS.id),
    ] == [(each["data"]["verb"], each["subject"]) for each in events[:6]]
    assert ["store", "store"] == [each["subject"] for each in events[6:]]


async def test_the_beginning_and_the_end_of_an_outage_are_events_of_each_replica() -> None:
    """The events name the replica, because other replicas may reach the store. There is no event without an
    outage.
    """
    store = Recorded()
    emitter = emitter_of(store)
    emitter.store_is(True)
    emitter.store_is(False)
    emitter.store_is(True)
    other = emitter_of(store, "b")
    other.store_is(False)
    await emitted(emitter, store, 2)
    events = await emitted(other, store, 3)
    assert [("unreachable", "a"), ("reachable", "a"), ("unreachable", "b")] == [
        (str(each["type"]).removeprefix("ratelimit.store."), dict(each["data"])["replica"])  # type: ignore[call-overload]
        for each in events
    ]


async def test_a_forecast_has_the_time_and_the_rate() -> None:
    store = Recorded()
    emitter = emitter_of(store)
    emitter.foreseen(RULE, use(), Foreseen(7_200.9, 0.123_456_789), NOW)
    (event,) = await emitted(emitter, store, 1)
    data = event["data"]
    assert isinstance(data, dict)
    assert ("ratelimit.budget.forecast", "1970-01-01T02:00:00Z", 0.123457) == (
        event["type"],
        data["runs_out_at"],
        data["burn_per_second"],
    )
