"""Group commit, on a store that answers when the test requests it."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit_service.core.model import Hit
from ratelimit_service.ports import OnOutcomes, Outcome
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.layer import without_early_answers
from ratelimit_service.stores.layers.local_cache import LocalCache
from ratelimit_service.stores.memory import MemoryStore


class SlowStore(MemoryStore):
    """A memory store that counts at once, and answers when `answer` is called; `batches` are the batches
    received.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.pending: list[OnOutcomes] = []
        super().__init__(lambda: 0.0)

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        self.batches.append(["".join(hit.key for hit in group) for group in groups])

        def hold(outcomes: Sequence[Outcome]) -> None:
            self.pending.append(lambda _: on_outcomes(outcomes))

        super().hit(groups, hold)

    def answer(self) -> None:
        self.pending.pop(0)([])


def one(key: str, amount: int = 1) -> list[list[Hit]]:
    return [[Hit(key, amount, ttl=60)]]


def test_requests_that_arrive_during_a_call_form_the_next_batch() -> None:
    """The first request is sent at once, alone; the next three are sent together, when it is answered."""
    slow = SlowStore()
    store = CoalescingStore(slow)
    answers: list[tuple[str, Sequence[Outcome]]] = []
    for key in "abcd":
        store.hit(one(key), lambda outcomes, key=key: answers.append((key, list(outcomes))))  # type: ignore[misc]
    assert [["a"]] == slow.batches
    slow.answer()
    assert [["a"], ["b", "c", "d"]] == slow.batches
    assert [("a", [[0]])] == answers
    slow.answer()
    assert [("a", [[0]]), ("b", [[0]]), ("c", [[0]]), ("d", [[0]])] == answers


def test_every_caller_sees_its_own_count() -> None:
    """Three charges of one bucket in one batch are three separate hits."""
    slow = SlowStore()
    store = CoalescingStore(slow)
    seen: list[object] = []
    for _ in range(4):
        store.hit(one("a", 10), lambda outcomes: seen.extend(outcomes))
    slow.answer()
    slow.answer()
    assert [[0], [10], [20], [30]] == seen


def test_a_batch_has_a_maximum_size() -> None:
    """Further requests wait for the next batch."""
    slow = SlowStore()
    store = CoalescingStore(slow, most_in_batch=2)
    for key in "abcde":
        store.hit(one(key), lambda outcomes: None)
    slow.answer()
    slow.answer()
    assert [["a"], ["b", "c"], ["d", "e"]] == slow.batches


def test_the_number_of_waiting_requests_is_bounded() -> None:
    """At the bound, a request is passed on alone: the store decides what to do with it, and no hit is lost
    here.
    """
    slow = SlowStore()
    store = CoalescingStore(slow, most_waiting=2)
    for key in "abcd":
        store.hit(one(key), lambda outcomes: None)
    assert [["a"], ["d"]] == slow.batches
    slow.answer()
    assert [["a"], ["d"], ["b", "c"]] == slow.batches


def test_a_request_without_hits_does_not_wait() -> None:
    """It is answered at once, however slow the store is."""
    slow = SlowStore()
    store = CoalescingStore(slow)
    store.hit(one("a"), lambda outcomes: None)
    answers: list[Sequence[Outcome]] = []
    store.hit([[], []], answers.append)
    assert [[(), ()]] == answers
    assert [["a"]] == slow.batches


def test_a_slow_store_gets_several_batches_at_once() -> None:
    """As soon as enough hits wait for another batch, up to a bound; the rest is sent after an answer."""
    slow = SlowStore()
    store = CoalescingStore(slow, enough=2, most_in_flight=3)
    for key in "abcdefgh":
        store.hit(one(key), lambda outcomes: None)
    assert [["a"], ["b", "c"], ["d", "e"]] == slow.batches
    slow.answer()
    assert [["a"], ["b", "c"], ["d", "e"], ["f", "g", "h"]] == slow.batches


async def test_closing_sends_the_waiting_requests() -> None:
    """No charge is lost at a stop."""
    slow = SlowStore()
    store = CoalescingStore(slow)
    for key in "abc":
        store.hit(one(key), lambda outcomes: None)
    await store.close()
    assert {"a": 1, "b": 1, "c": 1} == slow._counters


def test_a_callback_may_send_the_next_request() -> None:
    """It joins the waiting requests, and none is lost."""
    slow = SlowStore()
    store = CoalescingStore(slow)
    store.hit(one("a"), lambda outcomes: store.hit(one("again"), lambda outcomes: None))
    store.hit(one("b"), lambda outcomes: None)
    slow.answer()
    slow.answer()
    assert {"a", "b", "again"} == {key for batch in slow.batches for key in batch}


def test_callers_that_need_the_real_outcome_get_a_store_without_shortcuts() -> None:
    """It is the same store with group commit, but without the cache; a store without a cache returns
    itself.
    """
    slow = SlowStore()
    grouped = CoalescingStore(slow)
    store = without_early_answers(LocalCache(grouped, 1_000, lambda: 0.0))
    assert (grouped, slow) == (store, without_early_answers(slow))
