"""Forecasts for tracked buckets: the rate of use and the time of exhaustion, as gauges and as one event over
all replicas.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from ratelimit_service.core.model import Limit, Unit, Window
from ratelimit_service.events.emitting import Emitter
from ratelimit_service.stores.events import MemoryEvents
from testing.waiting import until
from tests.limiter import MIDNIGHT

from .replica import DAY, HOUR, Replica, budget

HOURLY = Limit(1_000, HOUR, "hourly")
TEAM = budget("team", HOURLY, track=True)


def gauge(replica: Replica, name: str) -> list[float]:
    return [round(sample.value, 3) for sample in replica.samples(f"budget_{name}")]


async def test_a_bucket_shows_how_fast_it_is_used_and_when_it_is_used_up() -> None:
    """600 of 1,000 are used in ten minutes, so the rest lasts seven more, and ends 2,600 seconds before the
    reset.
    """
    replica = Replica(TEAM)
    for _ in range(20):
        replica.now += 30
        await replica.ask(hits=30)
    assert ([1.0], [400.0]) == (gauge(replica, "burn_per_second"), gauge(replica, "seconds_to_exhaustion"))


async def test_a_bucket_that_lasts_has_no_end() -> None:
    """It has a rate, but no time of exhaustion, so that no alert fires on it."""
    replica = Replica(TEAM)
    for _ in range(20):
        replica.now += 30
        await replica.ask(hits=6)
    assert ([0.2], []) == (gauge(replica, "burn_per_second"), gauge(replica, "seconds_to_exhaustion"))


async def test_an_exhausted_budget_has_no_forecast() -> None:
    """A bucket whose window has just begun has no rate yet."""
    replica = Replica(TEAM)
    await replica.ask(hits=1)
    assert ([], []) == (gauge(replica, "burn_per_second"), gauge(replica, "seconds_to_exhaustion"))
    replica.now += 600
    await replica.ask(hits=2_000)
    assert [] == gauge(replica, "seconds_to_exhaustion")


async def test_windows_of_minutes_have_no_forecast() -> None:
    """They end before an operator could act."""
    replica = Replica(budget("team", Limit(1_000, Window(Unit.MINUTE), "minutely"), track=True))
    replica.now += 30
    await replica.ask(hits=30)
    assert [] == gauge(replica, "burn_per_second")


async def test_a_changed_limit_keeps_the_rate() -> None:
    """After a reload or a top-up, only the time of exhaustion changes."""
    replica = Replica(TEAM)
    for _ in range(20):
        replica.now += 30
        await replica.ask(hits=30)
    replica.use(budget("team", Limit(2_000, HOUR, "hourly"), track=True))
    replica.now += 30
    await replica.ask(hits=30)
    assert ([1.0], [1370.0]) == (gauge(replica, "burn_per_second"), gauge(replica, "seconds_to_exhaustion"))


async def emitted(events: MemoryEvents, *emitters: Emitter) -> list[dict[str, object]]:
    """Return the events that these emitters have put into the store."""
    tasks = [asyncio.create_task(emitter.run()) for emitter in emitters]
    await until(lambda: not any(emitter._waiting for emitter in emitters))
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return [json.loads(pending.text) for pending in await events.take("ops", "a", 100)]


async def test_three_replicas_foresee_a_window_once() -> None:
    """All three detect it, and one ends before it emits the event. The next window has another event."""
    first = Replica(TEAM)
    replicas = [first, Replica(TEAM, store=first.store), Replica(TEAM, store=first.store)]
    events = MemoryEvents(lambda: first.now)
    await events.open("ops")
    emitters = [Emitter(events, lambda: first.now, lambda name=name: name) for name in "abc"]  # type: ignore[misc]
    noticed = []
    for replica, emitter in zip(replicas, emitters, strict=True):
        replica.tracker.foreseen = emitter.foreseen
    for minute in range(80):
        for replica in replicas:
            replica.now = MIDNIGHT + 60 * minute + 59
            await replica.ask(hits=10)
        noticed.append([len(emitter._waiting) for emitter in emitters])
    assert [2, 2, 2] == noticed[-1]
    told = await emitted(events, *emitters[1:])  # the first replica has ended
    assert [("ratelimit.budget.forecast", "d|team=dba")] * 2 == [
        (one["type"], one["subject"]) for one in told
    ]
    (hour, _) = [one["data"] for one in told]
    assert isinstance(hour, dict)
    assert {"window": "hour", "limit": 1_000, "resets_at": "2026-11-21T01:00:00Z"}.items() <= hour.items()
    assert "2026-11-21T00:30" <= str(hour["runs_out_at"]) <= "2026-11-21T00:37"
    assert 0.45 < float(str(hour["burn_per_second"])) < 0.55
    assert [] == await emitted(events, emitters[0])  # it comes back: the same id


async def test_a_budget_by_the_day_is_foreseen_from_checks_alone() -> None:
    """A replica without charges sees those of the other replicas."""
    rule = budget("team", Limit(1_000, DAY, "daily"), track=True)
    first = Replica(rule)
    other = Replica(rule, store=first.store)
    found: list[str] = []
    other.tracker.foreseen = lambda rule, use, foreseen, now: found.append(use.key)
    for turn in range(20):
        first.now = other.now = MIDNIGHT + 900.0 * (turn + 1)
        await first.ask(hits=40)
        await other.ask(hits=0)
    assert ["{d|team=dba}:day:2026-11-21"] == found
