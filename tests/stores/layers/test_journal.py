"""The journal: the charges that have yet to be written."""

from __future__ import annotations

from ratelimit_service.core.ledger.entries import Period, record
from ratelimit_service.core.model import Hit
from ratelimit_service.stores.batch import Batch
from ratelimit_service.stores.lanes import EVERYWHERE, Lane
from ratelimit_service.stores.layers.journal import Journal
from ratelimit_service.stores.layers.settling import SettlingStore

from .backend import Backend, charge, settled


async def test_the_journal_has_a_bound_in_bytes_as_well() -> None:
    """Callers choose the names: long ones fill it sooner, and written charges make room again."""
    backend = Backend()
    store = SettlingStore(backend, journal_size=100)
    backend.away = True
    for number in range(100):
        await charge(store, f"{number}{'k' * 4_000}")
    assert (9, 91) == (store.journal.hits, store.journal.dropped)
    backend.away = False
    await settled(store)
    assert (0, 0) == (store.journal.hits, store.journal._bytes)
    assert 9 == len(backend._counters)


def test_charges_that_were_never_sent_are_merged() -> None:
    """Each keeps its remaining time. A batch that was sent stays unchanged."""
    journal = Journal(100)
    sent = Batch([[Hit("c", 1, ttl=60)], [Hit("d", 0, ttl=60)]], sent=Lane("lane", [], 7), kept_at=16.0)
    journal.add(Batch([[Hit("a", 1, ttl=60)]], kept_at=10.0))
    journal.add(Batch([[Hit("b", 1, ttl=60)]], kept_at=15.0))
    journal.add(sent)
    journal.add(Batch([[Hit("e", 1, ttl=60)]], 5, kept_at=17.0))
    assert (4, 3, 1) == (journal.hits, journal.batches_at(EVERYWHERE), journal.batches_at(5))
    assert Batch([[Hit("a", 1, ttl=60)], [Hit("b", 1, ttl=65)]], kept_at=10.0) == journal.take(EVERYWHERE)
    assert sent == journal.take(EVERYWHERE)
    assert [5] == journal.places()
    assert Batch([[Hit("e", 1, ttl=60)]], 5, kept_at=17.0) == journal.take(5)
    assert (0, []) == (journal.hits, journal.places())


def test_the_size_of_a_charge_includes_its_ledger_keys() -> None:
    """The name of the bucket is in the keys of the counter, of the book and of the entry."""
    bucket = f"{{d|k={'k' * 4_000}}}"
    into = record(bucket, Period(0, 0, ":ledger:hour:2026-11-21", "T08Z"), 600)
    ledgered = Hit(f"{bucket}:hour:2026-11-21T08Z", 1, ttl=60, into=into)
    journal = Journal(100)
    for _ in range(100):
        journal.add(Batch([[ledgered]], kept_at=10.0))
    assert (3, 97) == (journal.hits, journal.dropped)
    while journal.hits:
        journal.take(EVERYWHERE)
    assert 0 == journal._bytes
