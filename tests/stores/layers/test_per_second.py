"""A separate store for windows of seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import OnOutcomes, Outcome
from ratelimit_service.stores.layers.per_second import PerSecondStore, is_of_seconds
from ratelimit_service.stores.memory import MemoryStore
from testing.waiting import until

SECOND, MINUTE = "{d|k=v}:second:2026-11-21T01:44:05Z", "{d|k=v}:minute:2026-11-21T01:44Z"


class Store(MemoryStore):
    """A store that answers at once, later, or with an error."""

    def __init__(self, *, later: bool = False, broken: bool = False) -> None:
        super().__init__(lambda: 0.0, defer=asyncio.get_running_loop().call_soon if later else None)
        self.broken = broken
        self.closed = False

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        if self.broken:
            on_outcomes([StoreError("broken") if group else () for group in groups])
        else:
            super().hit(groups, on_outcomes)

    async def ping(self) -> None:
        if self.broken:
            raise StoreError("broken")

    async def close(self) -> None:
        self.closed = True


async def hit(store: PerSecondStore, *groups: Sequence[str]) -> list[object]:
    answers: list[Sequence[Outcome]] = []
    store.hit([[Hit(key, 1, ttl=60) for key in group] for group in groups], answers.append)
    (outcomes,) = await until(lambda: answers)
    return [str(outcome) if isinstance(outcome, StoreError) else list(outcome) for outcome in outcomes]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (SECOND, True),
        ("x{y}{d|k=v}:second:2026-11-21T01:44:05Z", True),
        ("{d|k=v}:15second:2026-11-21T01:44:15Z", True),
        (f"{SECOND}:warned-80", True),
        (MINUTE, False),
        ("{d|second=second}:day:2026-11-20T18:30Z", False),
        ("{d|k=v}", False),
        ("second", False),
    ],
)
def test_the_window_is_found_from_the_key(key: str, expected: bool) -> None:
    """For any descriptor and any prefix."""
    assert expected is is_of_seconds(key)


@pytest.mark.parametrize("later", [(False, False), (True, False), (False, True), (True, True)])
async def test_each_hit_goes_to_its_store_and_counts_keep_their_order(later: tuple[bool, bool]) -> None:
    """Whichever store answers first."""
    others, seconds = Store(later=later[0]), Store(later=later[1])
    store = PerSecondStore(others, seconds)
    assert [[0, 0, 1], [], [2], [1]] == await hit(store, (MINUTE, SECOND, MINUTE), (), (MINUTE,), (SECOND,))
    assert ({MINUTE: 3}, {SECOND: 2}) == (dict(others._counters), dict(seconds._counters))
    assert {MINUTE: 3, SECOND: 2} == await store.read_bucket("{d|k=v}")


async def test_hits_are_counted_in_one_store_while_the_other_fails() -> None:
    """A request fails only if none of its hits could be counted."""
    store = PerSecondStore(Store(), Store(broken=True))
    mixed, only_seconds, none, only_minutes = await hit(store, (SECOND, MINUTE), (SECOND,), (), (MINUTE,))
    assert isinstance(mixed, list)
    assert [True, False] == [isinstance(count, StoreError) for count in mixed]
    assert ("broken", [], [1]) == (only_seconds, none, only_minutes)


async def test_both_stores_must_be_healthy() -> None:
    """The error names the failing store. Closing closes both."""
    others, seconds = Store(), Store()
    store = PerSecondStore(others, seconds)
    await store.start()
    await store.ping()
    seconds.broken = True
    with pytest.raises(StoreError, match="for windows of seconds: broken"):
        await store.ping()
    others.broken = True
    with pytest.raises(StoreError, match=r"^broken"):
        await store.ping()
    await store.close()
    assert (True, True) == (others.closed, seconds.closed)


async def test_counters_are_read_and_deleted_in_both() -> None:
    """The last counts are returned."""
    store = PerSecondStore(Store(), Store())
    await hit(store, (MINUTE, SECOND, SECOND))
    counters = await store.read_bucket("{d|k=v}")
    assert {MINUTE: 1, SECOND: 2} == counters == await store.delete_counters([*counters])
    assert [[0, 0]] == await hit(store, (MINUTE, SECOND))
