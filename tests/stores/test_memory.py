"""The memory store has a bound in bytes, never frees an exhausted bucket, and never processes all its
counters at once.
"""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.holds.hit import HoldHit, Op
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import Outcome
from ratelimit_service.stores.dump import Counter
from ratelimit_service.stores.memory import MemoryStore, weight_of
from ratelimit_service.stores.shards import Shards


class Bench:
    """A store with a clock that the test sets."""

    def __init__(self, size: int = 10**9) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(lambda: self.now, size)

    def charge(self, key: str, amount: int = 1, ttl: int = 60) -> int | StoreError:
        """Charge a counter, and return its previous count, or the error."""
        return self.hit(Hit(key, amount, ttl=ttl))[0]

    def hit(self, *group: Hit) -> list[int | StoreError]:
        """Return the counts of a group."""
        found: list[int | StoreError] = []

        def on_outcomes(outcomes: Sequence[Outcome]) -> None:
            assert not isinstance(outcomes[0], StoreError)
            found.extend(outcomes[0])

        self.store.hit([group], on_outcomes)
        return found


def name(number: int, length: int = 60) -> str:
    """Return the key of a counter with this many characters."""
    return f"{{d|k={number:0{length - 20}}}}:day:2026-11"


@pytest.mark.parametrize("length", [30, 60, 400, 5_000])
def test_the_bound_is_in_bytes(length: int) -> None:
    """For names of any length, the real memory is at most the store's estimate, and not much less."""
    bench = Bench()
    keys = [name(number, length) for number in range(20_000 if length < 1_000 else 2_000)]
    taken_by_names = sum(map(sys.getsizeof, keys))
    tracemalloc.start()
    try:
        for number, key in enumerate(keys):
            bench.charge(key, 5_000 + number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.75 * bench.store.bytes <= taken + taken_by_names <= 1.1 * bench.store.bytes


def test_a_full_store_counts_only_existing_buckets() -> None:
    """An exhausted bucket stays exhausted. A new bucket is refused, and the refusal counted."""
    bench = Bench(size=20_000)
    assert 0 == bench.charge("exhausted", 1_000)
    answers = [bench.charge(name(number)) for number in range(1_000)]
    refused = [answer for answer in answers if isinstance(answer, StoreError)]
    assert [1_000, 1_001] == [bench.charge("exhausted"), bench.charge("exhausted", 0)]
    assert len(refused) == bench.store.refused == 1_001 - len(bench.store)
    assert bench.store.bytes <= 20_000
    assert "MEMORY_STORE_SIZE_IN_BYTES" in str(refused[0])
    assert 0 == bench.charge(name(5_000), 0)  # a check writes nothing, and needs no room


def test_the_id_of_a_charge_for_which_there_is_no_room_is_not_remembered() -> None:
    """The charge is counted when it is sent again, and then once."""
    bench = Bench(size=20_000)
    for number in range(1_000):
        bench.charge(name(number))
    bucket = "{d|k=new}"
    group = (
        Hit(f"{bucket}:day:2026-11-21", 40, ttl=600, limit=100),
        HoldHit(f"{bucket}:held", ttl=600, op=Op.CHARGE, now=1_000, life=60, charge=40, id="x"),
    )
    assert isinstance(bench.hit(*group)[0], StoreError)
    taken = bench.store.holds.bytes
    bench.now += 61
    assert [0, ~40, ~40] == [bench.hit(*group)[0] for _ in range(3)]
    assert bench.store.holds.bytes > taken


def test_longer_names_fill_the_store_sooner() -> None:
    """By the bytes of their names."""
    held = []
    for length in (60, 600):
        bench = Bench(size=100_000)
        for number in range(1_000):
            bench.charge(name(number, length))
        held.append(len(bench.store))
    assert held[0] > 3 * held[1]


def test_expired_counters_make_room() -> None:
    """All of it, whenever they expire."""
    bench = Bench(size=50_000)
    for _ in range(3):
        for number in range(200):
            assert 0 == bench.charge(name(number), 1, 60 + number % 7)
        bench.now += 100
        for _ in range(5):
            bench.charge("read", 0)
        assert (0, 0) == (len(bench.store), bench.store.bytes)


def test_loaded_counters_are_kept_even_beyond_the_bound() -> None:
    """With a smaller bound after a restart, an exhausted bucket stays exhausted, too."""
    bench = Bench(size=1_000)
    bench.store.load([Counter(name(number), 9, 2_000 + number % 2) for number in range(100)])
    assert 100 == len(bench.store)
    assert [9, 10] == [bench.charge(name(99)), bench.charge(name(99))]
    assert isinstance(bench.charge("new"), StoreError)
    assert bench.store.bytes > 100 * weight_of(name(0))


def test_counters_are_spread_over_small_dictionaries() -> None:
    """A dictionary that grows is copied as a whole, so each has a thousand keys, not a hundred thousand."""
    shards = Shards()
    shards.update({name(number): number for number in range(100_000)})
    assert max(map(len, shards.shards)) < 2 * 100_000 / len(shards.shards)
    assert 100_000 == len(shards)
    assert 77 == shards[name(77)]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads switch as often as Python allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_a_dump_in_another_thread_is_a_consistent_snapshot() -> None:
    """Meanwhile, the main thread counts, creates, deletes and expires counters."""
    bench = Bench()
    for number in range(4_000):
        bench.charge(name(number), number + 1, 10 + number % 50)
    for _ in range(5):
        expected = dict(bench.store._counters)
        dumped = bench.store.dump()
        found: list[Counter] = []
        thread = threading.Thread(target=lambda: found.extend(dumped))  # noqa: B023
        first = bench.charge(name(0), 3)
        thread.start()
        turn = 0
        while thread.is_alive() or turn < 200:
            turn += 1
            bench.charge(name(turn * 7 % 4_000), 5)
            bench.charge(name(10_000_000 + turn + int(bench.now) * 1_000), 5, 30)
            if turn % 50 == 0:
                bench.now += 1
        thread.join()
        assert not isinstance(first, StoreError)
        assert expected == {counter.key: counter.value for counter in found}
        assert len(found) == len(expected)


def test_an_unused_dump_is_dropped_by_the_next() -> None:
    """A full disk ends one early."""
    bench = Bench()
    bench.charge("a", 1)
    bench.store.dump()
    bench.charge("a", 1)
    assert [("a", 2)] == [(counter.key, counter.value) for counter in bench.store.dump()]
    assert bench.store._dump is None
