"""The settling layer on a backend whose calls fail on demand: every charge is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from ratelimit_service.core.errors import CounterRefused, StoreError
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import Outcome
from ratelimit_service.runtime.tasks import Background
from ratelimit_service.stores.batch import Batch, CallFailed, Counts, Fate, Groups, Origin, Part
from ratelimit_service.stores.lanes import EVERYWHERE, Place
from ratelimit_service.stores.layers import settling
from ratelimit_service.stores.layers.settling import SettlingStore
from testing.waiting import until

from .backend import Backend, Call, charge, settled


class TwoSlots(Backend):
    """A backend of two servers with a slot each: for keys that begin with `a`, and for all others.

    The servers of slots in `down` fail every call; those in `known` are known to be away.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.down: set[Place] = set()
        self.known: set[Place] = set()

    def split(self, groups: Groups) -> Sequence[Part]:
        def part(slot: int, is_in: Callable[[str], bool]) -> Part:
            origins = [
                Origin(number, [index for index, hit in enumerate(group) if is_in(hit.key)])
                for number, group in enumerate(groups)
            ]
            origins = [origin for origin in origins if origin.hits]
            return Part(
                [[groups[number][index] for index in hits] for number, hits in origins], [*origins], slot
            )

        parts = [part(0, lambda key: key.startswith("a")), part(1, lambda key: not key.startswith("a"))]
        return [part for part in parts if part.origins]

    def server_of(self, place: Place) -> object:
        return None if place in self.known else f"server {place}"

    def apply_or_fail(self, call: Call) -> Counts | StoreError:
        if call.place in self.down:
            return CallFailed("one server is away", Fate.LOST, partly=True)
        return super().apply_or_fail(call)


def is_open(store: SettlingStore) -> bool:
    """Whether the circuit is open. A function, because mypy considers a property constant."""
    return store.open


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_charge_whose_outcome_is_unknown_is_counted_once(fault: str) -> None:
    """Either the call or its reply was lost: the caller gets an error, and the charge is counted."""
    backend = Backend("", fault)
    store = SettlingStore(backend, random_share=lambda: 1.0)
    assert [[0]] == await charge(store, "a", amount=40)
    (outcome,) = await charge(store, "a", amount=2)
    assert isinstance(outcome, StoreError)
    await settled(store)
    assert {"a": 42} == backend._counters
    assert [[42]] == await charge(store, "a", amount=0)
    await store.close()


async def test_a_lane_is_abandoned_after_an_unknown_outcome() -> None:
    """The lost call may still arrive, so the register of its lane must keep its number."""
    backend = Backend("after")
    store = SettlingStore(backend)
    await charge(store, "a")
    await settled(store)
    await charge(store, "b")
    lanes = [call.lane for call in backend.calls]
    assert lanes[0] == lanes[1] != lanes[2]
    backend.apply_or_fail(backend.calls[0])
    assert {"a": 1, "b": 1} == backend._counters


async def test_a_lane_is_used_again_and_by_one_batch_at_a_time() -> None:
    """Successive batches share a lane, and concurrent ones each have their own."""
    backend = Backend()
    store = SettlingStore(backend)
    await charge(store, "a")
    await charge(store, "a")
    assert 1 == len({call.lane for call in backend.calls})
    await asyncio.gather(*[charge(store, "a") for _ in range(3)])
    assert 3 == len({call.lane for call in backend.calls[2:]})


async def test_a_check_of_one_counter_has_no_lane() -> None:
    """Where batches are split: it writes nothing, so it may be sent any number of times. A charge has one."""
    backend = TwoSlots()
    store = SettlingStore(backend)
    await charge(store, "a", amount=0)
    await charge(store, "b")
    await charge(store, "a", "b", amount=0)
    assert [("a", None), ("b", 1)] == [(call.groups[0][0].key, call.number) for call in backend.calls[:2]]
    assert [None, None] == [call.number for call in backend.calls[2:]]
    backend.faults = ["after"]
    assert isinstance((await charge(store, "a", amount=0))[0], Sequence)
    assert 0 == store.journal.hits


async def test_writing_the_journal_continues_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error is counted, and the journal tried again; otherwise the circuit would stay open, with the
    charges in the journal, forever.
    """
    monkeypatch.setattr(settling, "_AFTER_A_MISTAKE", 0.01)
    backend, background = Backend(), Background()
    store = SettlingStore(backend, background=background)
    mistakes = [ValueError("not a reply"), KeyError("slot")]
    start = backend.start

    async def fails() -> None:
        if mistakes:
            raise mistakes.pop()
        await start()

    monkeypatch.setattr(backend, "start", fails)
    backend.away = True
    for _ in range(3):
        await charge(store, "a", amount=10)
    assert is_open(store)
    backend.away = False
    await settled(store)
    assert (False, {"a": 30}, {"journal": 2}) == (
        is_open(store),
        dict(backend._counters),
        dict(background.failures()),
    )
    await store.close()


async def test_three_failures_open_the_circuit_and_nothing_is_sent_then() -> None:
    """Charges are answered at once and kept, checks are answered and dropped; all charges are written when
    Redis is back.
    """
    backend = Backend()
    store = SettlingStore(backend)
    backend.away = True
    for _ in range(3):
        await charge(store, "a", amount=10)
    assert is_open(store)
    sent = len(backend.calls)
    for amount in (5, 0, -2):
        (outcome,) = await charge(store, "a", amount=amount)
        assert "Redis is away" == str(outcome)
    assert sent == len(backend.calls)
    assert 5 == store.journal.hits  # the check is not kept
    backend.away = False
    await settled(store)
    assert not is_open(store)
    assert {"a": 33} == backend._counters
    assert 0 == store.journal.hits


async def test_writing_the_journal_continues_where_it_failed() -> None:
    """The connection breaks repeatedly while the journal is written; each charge is still counted once."""
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    backend.away = True
    for number in range(10):
        await charge(store, f"k{number}", amount=number + 1)
    backend.away = False
    backend.faults = ["before", "after", "after", "before", "after", "", "after"]
    await settled(store)
    assert {f"k{number}": number + 1 for number in range(10)} == backend._counters
    assert 0 == store.journal.dropped


async def test_each_part_of_a_batch_fails_by_itself() -> None:
    """One slot of a Cluster may fail: its hits get the error and are kept, the others are counted and
    answered.
    """
    backend = TwoSlots("before")
    store = SettlingStore(backend)
    (outcome,) = await charge(store, "b1", "a1", "b2", "a2")
    assert not isinstance(outcome, StoreError)
    assert [False, True, False, True] == [isinstance(count, StoreError) for count in outcome]
    await settled(store)
    assert {"a1": 1, "a2": 1, "b1": 1, "b2": 1} == backend._counters


async def test_charges_beyond_the_bound_of_the_journal_are_counted_as_lost() -> None:
    """The charges in the journal are written."""
    backend = Backend()
    store = SettlingStore(backend, journal_size=4)
    backend.away = True
    for number in range(6):
        await charge(store, f"k{number}")
    assert (4, 2) == (store.journal.hits, store.journal.dropped)
    backend.away = False
    await settled(store)
    assert 4 == len(backend._counters)


async def test_an_overloaded_redis_gets_no_more_calls() -> None:
    """While 64 calls are in flight, charges go to the journal, and their callers are answered at once."""
    backend = Backend()
    store = SettlingStore(backend)
    charges = [asyncio.create_task(charge(store, "a")) for _ in range(70)]
    outcomes = [outcome for (outcome,) in await asyncio.gather(*charges)]
    assert ["Redis is overloaded: 64 calls are in flight"] * 6 == [
        str(it) for it in outcomes if isinstance(it, StoreError)
    ]
    await settled(store)
    assert {"a": 70} == backend._counters


async def test_closing_waits_for_calls_in_flight() -> None:
    """This includes calls that a callback makes."""
    backend = Backend()
    store = SettlingStore(backend)
    store.hit(
        [[Hit("a", 1, ttl=60)]], lambda outcomes: store.hit([[Hit("b", 2, ttl=60)]], lambda outcomes: None)
    )
    await store.close()
    assert {"a": 1, "b": 2} == backend._counters


async def test_closing_writes_the_journal() -> None:
    """A stop just after Redis is back loses nothing."""
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 0.0)
    backend.away = True
    for _ in range(4):
        await charge(store, "a")
    backend.away = False
    await store.close()
    assert {"a": 4} == backend._counters


async def test_a_charge_of_a_window_that_is_over_is_not_written() -> None:
    """Its counter has expired. In windows that have not ended, the charge is counted."""
    backend = Backend()
    store = SettlingStore(backend)
    backend.away = True
    for _ in range(3):
        await charge(store, "x")
    backend.away = False
    hundred_seconds_ago = asyncio.get_running_loop().time() - 100
    store.journal.add(
        Batch([[Hit("minute", 5, ttl=60), Hit("day", 5, ttl=86_400)]], kept_at=hundred_seconds_ago)
    )
    await settled(store)
    assert {"x": 3, "day": 5} == backend._counters


async def test_a_batch_that_always_fails_does_not_delay_others() -> None:
    """It blocks neither later batches of the journal nor the circuit.

    A batch that may have been applied is sent again unchanged.
    """
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    backend.fates["bad"] = Fate.UNCLEAR
    for _ in range(3):
        await charge(store, "bad")
    assert is_open(store)
    await charge(store, "good", amount=5)
    await until(lambda: not is_open(store))
    assert {"good": 5} == backend._counters
    assert (3, [[5]]) == (store.journal.hits, await charge(store, "good"))
    sent = [(call.lane, call.number) for call in backend.calls if call.groups[0][0].key == "bad"]
    assert 3 == len(set(sent)) < len(sent)
    backend.fates.clear()
    await settled(store)
    assert {"good": 6, "bad": 3} == backend._counters


async def test_an_unreachable_server_does_not_delay_the_others() -> None:
    """The other servers' part of the journal is written, the failing batch is not retried all the time, and
    no circuit opens.
    """
    backend = TwoSlots()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    backend.down = {0}
    backend.faults = ["before"]
    for number in range(8):
        await charge(store, f"a{number}", f"b{number}")
    await until(lambda: backend._counters == {f"b{number}": 1 for number in range(8)})
    assert not is_open(store)
    backend.known = {0}
    asked = len(backend.calls)
    await store._writer.write()
    assert (asked, 8) == (len(backend.calls), store.journal.hits)
    backend.down, backend.known = set(), set()
    await settled(store)
    assert {f"{slot}{number}": 1 for number in range(8) for slot in "ab"} == backend._counters


async def test_an_unreachable_server_leaves_room_in_the_journal() -> None:
    """Its charges may fill an eighth, so that room is left when another server does not answer for a
    moment.
    """
    backend = TwoSlots()
    store = SettlingStore(backend, 80, random_share=lambda: 0.0)
    backend.down, backend.known = {0}, {0}
    for number in range(100):
        await charge(store, f"a{number}")
    assert (70, 30) == (store.journal.hits, store.journal.dropped)
    backend.faults = ["before"]
    await charge(store, *(f"b{number}" for number in range(10)))
    assert (80, 30) == (store.journal.hits, store.journal.dropped)
    backend.down, backend.known = set(), set()
    await settled(store)
    assert 80 == len(backend._counters)


async def test_each_server_has_its_own_circuit() -> None:
    """Three failed batches open it. Then the next batch makes no call, and batches for other servers are
    answered.
    """
    backend = TwoSlots()
    store = SettlingStore(backend, random_share=lambda: 0.0)
    backend.down = {0}
    for _ in range(3):
        await charge(store, "a")
    sent = len(backend.calls)
    (outcome,) = await charge(store, "a", "b")
    assert ["a part of Redis is away", "0"] == [str(count) for count in outcome]  # type: ignore[union-attr]
    assert sent + 1 == len(backend.calls)
    backend.down = set()
    await settled(store)
    assert {"a": 4, "b": 1} == backend._counters


async def test_a_refused_batch_needs_no_settling() -> None:
    """It is sent again with a new number, merged with others, at any later time. Its lane is used again."""
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    backend.fates["a"] = Fate.REFUSED
    for _ in range(5):
        await charge(store, "a")
    assert is_open(store)
    assert {None} == {batch.sent for batch in store.journal._queues[EVERYWHERE]}
    assert 1 == len({call.lane for call in backend.calls})
    backend.fates.clear()
    await settled(store)
    assert {"a": 5} == backend._counters
    assert 1 == len({call.lane for call in backend.calls})


async def test_a_lane_with_an_unusable_register_is_abandoned() -> None:
    """The register has another type: nothing was applied, Redis is healthy, and another lane is used."""
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    for _ in range(4):
        backend.fates["a"] = Fate.BAD_LANE
        await charge(store, "a")
    assert not is_open(store)
    assert 4 == len({call.lane for call in backend.calls})
    backend.fates.clear()
    await settled(store)
    assert {"a": 4} == backend._counters


async def test_a_forbidden_key_fails_only_its_own_request() -> None:
    """A batch with forbidden hits takes three round trips in all, however many they are. The other hits are
    sent in one call.
    """
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    backend.fates["secret"] = Fate.FORBIDDEN
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    groups = [[Hit("secret" if number % 3 == 0 else "open", 1, ttl=60)] for number in range(9)]
    store.hit(groups, answer.set_result)
    outcomes = [list(outcome) for outcome in await answer if not isinstance(outcome, StoreError)]
    assert [number % 3 == 0 for number in range(9)] == [
        isinstance(count, CounterRefused) for (count,) in outcomes
    ]
    assert [0, 1, 2, 3, 4, 5] == [count for (count,) in outcomes if not isinstance(count, StoreError)]
    assert [9, 0, 1, 1, 9] == [len(call.groups) for call in backend.calls]
    assert {"open": 6} == backend._counters
    assert (0, False) == (store.journal.hits, store.open)


async def test_a_connection_that_breaks_during_the_search_for_forbidden_keys_loses_nothing() -> None:
    """Nothing of the batch was applied, so all of it is written later."""
    backend = Backend()
    store = SettlingStore(backend, random_share=lambda: 1.0)
    backend.fates["secret"] = Fate.FORBIDDEN
    for fault in ([""], ["", "", "before"], ["", "before"], ["", "after"]):
        backend.faults = list(fault)
        await charge(store, "open", "secret")
    await settled(store)
    assert {"open": 4} == backend._counters
    assert 3 == store.journal.dropped  # the forbidden one, whose callers got another error
