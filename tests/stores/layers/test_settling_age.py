"""The age of a batch with an unknown outcome: by the clock of Redis, or else by every clock of this
machine.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from ratelimit_service.stores.layers.settling import SettlingStore

from .backend import Backend, charge, settled


class Clocks:
    """The clocks of this machine, which a test sets, except for that of the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boot = self.day = 0.0
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.boot)
        monkeypatch.setattr(time, "time", lambda: self.day)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


async def unsettled(backend: Backend) -> SettlingStore:
    """A charge on `a` that was applied, whose answer was lost, and whose register has expired in Redis
    since.
    """
    store = SettlingStore(backend, random_share=lambda: 1.0)
    await store.ping()
    await charge(store, "a", amount=40)
    backend.faults = ["after"]
    await charge(store, "a", amount=2)
    backend.registers.clear()
    return store


async def test_a_batch_is_not_sent_again_after_a_suspension(clocks: Clocks) -> None:
    """All clocks of the machine stopped; the time of Redis shows that its register may be gone."""
    backend = Backend()
    backend.clock = 1_000.0
    store = await unsettled(backend)
    backend.clock += 2 * 3_600
    await settled(store)
    assert {"a": 42} == backend._counters
    assert (1, 0) == (store.journal.dropped, store.journal.hits)
    await store.close()


async def test_a_corrected_clock_loses_no_charge(clocks: Clocks) -> None:
    """The clock was half a day behind at the start. By the clock of Redis, a second has passed."""
    backend = Backend()
    backend.clock = 1_000.0
    store = SettlingStore(backend, random_share=lambda: 1.0)
    await store.ping()
    backend.faults = ["before"]
    await charge(store, "a", amount=2)
    clocks.day += 12 * 3_600
    backend.clock += 1
    await settled(store)
    assert {"a": 2} == backend._counters
    assert 0 == store.journal.dropped
    await store.close()


@pytest.mark.parametrize("clock", ["boot", "day"])
async def test_without_the_time_of_redis_every_clock_must_agree(clocks: Clocks, clock: str) -> None:
    """Behind a proxy: a charge is dropped, and counted as dropped, rather than counted twice."""
    backend = Backend()
    store = await unsettled(backend)
    setattr(clocks, clock, getattr(clocks, clock) + 2 * 3_600)
    await settled(store)
    assert {"a": 42} == backend._counters
    assert 1 == store.journal.dropped
    await store.close()


async def test_the_age_of_a_batch_begins_before_it_is_sent(clocks: Clocks) -> None:
    """It does not begin at the failure: the machine may have been suspended in between."""
    backend = Backend()
    backend.clock = 1_000.0
    store = SettlingStore(backend, random_share=lambda: 1.0)
    await store.ping()
    backend.faults = ["after"]
    answer = asyncio.ensure_future(charge(store, "a", amount=2))
    while not backend.calls:
        await asyncio.sleep(0)
    backend.clock += 2 * 3_600
    await store.ping()
    backend.registers.clear()
    await answer
    await settled(store)
    assert {"a": 2} == backend._counters
    assert 1 == store.journal.dropped
    await store.close()


async def test_a_batch_waits_while_redis_no_longer_reports_its_time(clocks: Clocks) -> None:
    """Redis has reported it before: a single failed TIME says nothing about the age of the batch."""
    backend = Backend()
    backend.clock = 1_000.0
    store = SettlingStore(backend, random_share=lambda: 1.0)
    await store.ping()
    backend.faults = ["before"]
    backend.clock, before = None, backend.clock
    await charge(store, "a", amount=2)
    await charge(store, "b", amount=1)
    assert [[1]] == await charge(store, "b", amount=0)
    await asyncio.sleep(0.12)
    assert {"b": 1} == backend._counters
    backend.clock = before
    await settled(store)
    assert {"a": 2, "b": 1} == backend._counters
    await store.close()
