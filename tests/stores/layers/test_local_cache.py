"""For a second, the cache refuses calls for an exhausted bucket, and still counts their charges."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit_service.core.gates import Gate
from ratelimit_service.core.ledger.entries import Period, record
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import OnOutcomes, Outcome
from ratelimit_service.stores.layers.local_cache import FRESH, LocalCache
from ratelimit_service.stores.memory import MemoryStore

BUDGET = Gate.BUDGET | Gate.REFUSES


class CountingStore(MemoryStore):
    """A memory store that records its calls."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.hits: list[tuple[str, int]] = []

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        self.hits += [(hit.key, hit.amount) for group in groups for hit in group]
        super().hit(groups, on_outcomes)


class Bench:
    """A cache on a store, with a stopped clock."""

    def __init__(self, size: int = 100_000) -> None:
        self.now = 0.0
        self.store = CountingStore()
        self.cache = LocalCache(self.store, size, lambda: self.now)

    def ask(self, *groups: Sequence[Hit]) -> list[Outcome]:
        answers: list[Outcome] = []
        self.cache.hit(groups, answers.extend)
        return answers


def check(key: str = "a", limit: int = 10) -> list[Hit]:
    return [Hit(key, 0, ttl=60, limit=limit, gate=BUDGET)]


def charge(amount: int, key: str = "a", limit: int = 10) -> list[Hit]:
    return [Hit(key, amount, ttl=60, limit=limit, gate=BUDGET)]


def test_an_exhausted_bucket_is_read_from_the_store_once_a_second() -> None:
    """The second call is answered from memory; after a second, the store gets a call again."""
    bench = Bench()
    bench.ask(charge(12))
    assert [[12]] == bench.ask(check())
    asked = len(bench.store.hits)
    assert [[[12]]] * 3 == [bench.ask(check()) for _ in range(3)]
    assert asked == len(bench.store.hits)
    assert 3 == bench.cache.answered
    bench.now += FRESH + 0.01
    assert [[12]] == bench.ask(check())
    assert asked + 1 == len(bench.store.hits)


def test_a_bucket_with_room_is_read_from_the_store_every_time() -> None:
    """Only exhausted buckets are cached."""
    bench = Bench()
    bench.ask(charge(9))
    assert [[[9]], [[9]]] == [bench.ask(check()), bench.ask(check())]
    assert 3 == len(bench.store.hits)


def test_a_charge_of_an_exhausted_bucket_is_counted() -> None:
    """The caller does not wait for the store."""
    bench = Bench()
    bench.ask(charge(12))
    bench.ask(check())
    assert [[12]] == bench.ask(charge(5))
    assert {"a": 17} == bench.store._counters


def test_a_refund_bypasses_the_cache_and_reopens_the_bucket_at_once() -> None:
    """The count in the store's answer is cached."""
    bench = Bench()
    bench.ask(charge(12))
    bench.ask(check())
    assert [[12]] == bench.ask([Hit("a", -5, ttl=60, limit=10, gate=BUDGET)])
    assert [[7]] == bench.ask(check())


def test_a_raised_limit_takes_effect_at_once() -> None:
    """The cache has the count, not the verdict."""
    bench = Bench()
    bench.ask(charge(12))
    bench.ask(check())
    asked = len(bench.store.hits)
    bench.ask(check(limit=20))
    assert asked + 1 == len(bench.store.hits)


def test_a_deleted_counter_is_noticed_within_a_second() -> None:
    """The cache needs no notification."""
    bench = Bench()
    bench.ask(charge(12))
    bench.ask(check())
    bench.store._counters.clear()
    bench.now += FRESH + 0.01
    assert [[0]] == bench.ask(check())


def test_the_counts_of_all_windows_are_cached() -> None:
    """The hour is used up and the day is not: both counts are answered."""
    bench = Bench()
    both = [Hit("hour", 0, ttl=60, limit=10, gate=BUDGET), Hit("day", 0, ttl=60, limit=100, gate=BUDGET)]
    bench.ask([hit.changed(amount=12) for hit in both])
    bench.ask(both)
    asked = len(bench.store.hits)
    assert [[12, 12]] == bench.ask(both)
    assert asked == len(bench.store.hits)


def test_answers_of_a_batch_are_in_order() -> None:
    """Some answers come from memory, some from the store, and some need neither."""
    bench = Bench()
    bench.ask(charge(12))
    bench.ask(check())
    assert [[12], [0], [], [12]] == [
        list(o) for o in bench.ask(check(), check("b"), [], charge(1)) if not isinstance(o, Exception)
    ]
    assert {"a": 13} == bench.store._counters


def test_the_cache_has_a_bound() -> None:
    """By the given size in bytes."""
    bench = Bench(size=4_000)
    for number in range(100):
        bench.ask(charge(12, f"k{number}"))
        bench.ask(check(f"k{number}"))
    assert 11 == len(bench.cache._known)


def test_the_size_of_the_cache_is_counted_in_bytes() -> None:
    """Buckets with long names are evicted sooner, and evicted ones make room."""
    bench = Bench(size=4_000)
    for number in range(100):
        bench.ask(charge(12, f"{number}{'k' * 1_000}"))
        bench.ask(check(f"{number}{'k' * 1_000}"))
    assert 2 == len(bench.cache._known)
    for number in (98, 99):  # refunded: they have room, so they are not cached
        bench.now += FRESH + 0.01
        bench.ask(charge(-12, f"{number}{'k' * 1_000}"))
        bench.ask(check(f"{number}{'k' * 1_000}"))
    assert (0, 0) == (len(bench.cache._known), bench.cache._bytes)


def test_the_entries_of_refused_requests_are_neither_cached_nor_answered_from_memory() -> None:
    """The key of a book is no counter, and each refusal is written once."""
    bench = Bench()
    into = record("{d|k=a}", Period(0, 0, ":ledger:hour:2026-11-21", "T08Z"), 600)
    entry = Hit(into.book, 1, ttl=into.life, gate=Gate.LEDGER | Gate.ENTRY, into=into)
    for _ in range(3):
        bench.ask([entry, entry])
    assert (0, 0, 0) == (bench.cache.answered, len(bench.cache._known), bench.cache._bytes)
    assert [(into.book, 1)] * 6 == bench.store.hits
