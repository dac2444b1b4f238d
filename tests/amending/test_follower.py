"""A replica follows the amendments of its store, and keeps those that it has while the store is
unreachable.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from ratelimit_service.amending.follower import AUTHOR, EVERY, Follower
from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import (
    Amendment,
    Change,
    ChangeResult,
    News,
    Put,
    Remove,
    override,
    top_up,
)
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import CounterRefused, StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.amendments import MemoryAmendments

NOW = 1_795_249_200


TREE = RuleTree(
    load(
        [
            read(
                "d.yaml",
                "domain: d\ndescriptors:\n  - key: team\n    rate_limits:\n"
                "      - {unit: hour, tokens_per_unit: 1}\n      - {unit: day, tokens_per_unit: 1}\n",
            )
        ]
    ).domains
)


class Failing(MemoryAmendments):
    """A store that can be made unreachable."""

    error: StoreError | None = None

    async def news(self, version: int, stamp: str) -> News:
        if self.error is not None:
            raise self.error
        return await super().news(version, stamp)


class Replica:
    """A follower with its own clock, which goes forward only while the follower sleeps."""

    def __init__(self, store: MemoryAmendments) -> None:
        self.polls = 0
        """How often the follower has slept between two polls."""
        self.now = float(NOW)
        self.amendments = Amendments()
        self.changes = 0
        self.follower = Follower(
            store, self.amendments, [self], lambda: TREE, lambda: self.now, lambda: self.now, self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.polls += 1
        self.now += seconds
        await asyncio.sleep(0)

    def apply_amendments(self) -> None:
        self.changes += 1

    @property
    def amounts(self) -> list[int]:
        return sorted(amendment.amount for amendment in self.amendments)


@pytest.fixture
def store() -> Failing:
    return Failing()


@pytest.fixture
def replica(store: Failing) -> Replica:
    return Replica(store)


def to(text: str, amount: int, **more: Any) -> Amendment:
    return override(parse("d", text), amount, since=NOW, **more)


async def put(store: MemoryAmendments, *amendments: Amendment) -> None:
    key = f"{store._version}"
    await store.apply(Change(key, "ana", "launch", tuple(map(Put, amendments)), NOW))


async def test_changes_in_the_store_come_into_force(store: Failing, replica: Replica) -> None:
    """An amendment is added, replaced and removed. The planners are informed once of each change, and not of
    reads without one.
    """
    await replica.follower.follow()
    assert ([], 0) == (replica.amounts, replica.changes)
    await put(store, to("team=a", 1), to("team=b", 2))
    await replica.follower.follow()
    assert ([1, 2], 1) == (replica.amounts, replica.changes)
    await put(store, to("team=a", 3))
    await store.apply(Change("remove", "ana", "over", (Remove(to("team=b", 2).id),), NOW))
    await replica.follower.follow()
    assert ([3], 2) == (replica.amounts, replica.changes)
    await replica.follower.follow()
    assert (3, 2) == (replica.follower.version, replica.changes)


async def test_a_change_is_in_force_at_the_next_poll_and_four_polls_take_a_second(
    store: Failing, replica: Replica
) -> None:
    """Whenever it is made; also the first one after the store could not be reached for some polls."""
    assert 4 * EVERY <= 1.0
    following = asyncio.create_task(replica.follower.run())

    async def next_poll() -> None:
        polls = replica.polls
        while replica.polls == polls:
            await asyncio.sleep(0)

    await next_poll()
    for amount in range(1, 6):
        await put(store, to("team=a", amount))
        made = replica.now
        await next_poll()
        assert ([amount], EVERY) == (replica.amounts, replica.now - made)
        store.error = StoreError("Redis is away")
        for _ in range(amount):
            await next_poll()
        store.error = None
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_polls_do_not_wait_for_the_removal_of_ended_amendments(
    store: Failing, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be slow: there may be 50,000, and each removal is a call to the store. A failure of it is no
    failure of the change that an operator makes meanwhile.
    """
    await put(store, to("team=a", 1, until=NOW + 60))
    await replica.follower.try_to_follow()
    applies = store.apply
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(change: Change, *, dry_run: bool = False) -> ChangeResult:
        if change.author != AUTHOR:
            return await applies(change, dry_run=dry_run)
        asked.set()
        await answer.wait()
        raise StoreError("Redis is away")

    monkeypatch.setattr(store, "apply", slowly)
    replica.now += 8_000
    removing = asyncio.create_task(replica.follower.tidy())
    await asked.wait()
    await put(store, to("team=b", 2))
    await replica.follower.follow()
    assert [1, 2] == replica.amounts
    answer.set()
    await removing
    monkeypatch.undo()
    await replica.follower.tidy()
    await replica.follower.try_to_follow()
    assert [2] == replica.amounts


async def test_a_replica_without_the_store_keeps_its_amendments_and_shows_their_age(
    store: Failing, replica: Replica
) -> None:
    """It logs one line at the start and one at the end; then it applies the changes that it has missed."""
    await put(store, to("team=a", 1))
    await replica.follower.try_to_follow()
    assert 0.0 == replica.follower.age_seconds
    store.error = StoreError("Redis is away")
    await put(store, to("team=b", 2))
    with capture_logs() as logged:
        for _ in range(3):
            replica.now += 10
            await replica.follower.try_to_follow()
        assert ([1], 30.0) == (replica.amounts, replica.follower.age_seconds)
        store.error = None
        await replica.follower.try_to_follow()
    assert ([1, 2], 0.0) == (replica.amounts, replica.follower.age_seconds)
    assert [
        ("the amendments cannot be read, and those known so far stay in force", "warning"),
        ("amendments in force", "info"),
        ("the amendments are read again", "info"),
    ] == [(line["event"], line["log_level"]) for line in logged]
    assert "amendments: 2 in force, version 2, read 0.0 s ago" == str(replica.follower.in_step)


async def test_a_store_that_has_lost_changes_is_followed_with_an_error_in_the_log(
    store: Failing, replica: Replica
) -> None:
    """A failover lost the last changes, with or without a new one of the same version; or the store is
    empty.
    """
    await put(store, to("team=a", 1))
    lines = list(store.lines() or ())
    await put(store, to("team=b", 2))
    await replica.follower.follow()
    store.load(lines)
    with capture_logs() as logged:
        await replica.follower.follow()
    assert [1] == replica.amounts
    assert "the store has lost changes of the amendments: what it has now is in force" == logged[0]["event"]
    await put(store, to("team=b", 2))
    await replica.follower.follow()
    store.load(lines)
    await put(store, to("team=c", 3))
    with capture_logs() as logged:
        await replica.follower.follow()
    assert ([1, 3], "error") == (replica.amounts, logged[0]["log_level"])
    store.load(())
    with capture_logs() as logged:
        await replica.follower.follow()
    assert ([], "error") == (replica.amounts, logged[0]["log_level"])


async def test_ten_thousand_amendments_are_applied_in_slices_and_later_only_differences(
    store: Failing, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls do not wait for all of them. Another read applies only the differences."""
    many = [to(f"user={number}", number) for number in range(3_000)]
    for at in range(0, len(many), 100):
        await put(store, *many[at : at + 100])
    await replica.follower.follow()
    assert 3_000 == len(replica.amendments)
    store._stamps.clear()
    store._stamp = "another"
    version = replica.amendments.version
    await replica.follower.follow()
    assert version == replica.amendments.version


async def test_a_new_replica_is_ready_once_it_has_read_the_store(store: Failing, replica: Replica) -> None:
    """Not before: a kill switch must apply to the first call. If an ACL forbids reading, it does not wait."""
    store.error = StoreError("Redis is away")
    await replica.follower.try_to_follow()
    assert not _is_ready(replica)
    store.error = None
    await replica.follower.try_to_follow()
    assert _is_ready(replica)
    forbidden = Replica(store)
    store.error = CounterRefused("NOPERM")
    await forbidden.follower.try_to_follow()
    assert _is_ready(forbidden)
    failing = Replica(store)
    store.error = StoreError("WRONGTYPE")
    for _ in range(40):
        assert not _is_ready(failing)
        await failing.follower.try_to_follow()
    assert _is_ready(failing)


def _is_ready(replica: Replica) -> bool:
    return replica.follower.ready


async def test_an_ended_amendment_is_removed_an_hour_later(store: Failing, replica: Replica) -> None:
    """One replica removes it, and the audit has its line. An amendment that ends with a window is removed
    after the longest window.
    """
    ended = to("team=a", 1, until=NOW + 60)
    hour = top_up(parse("d", "team=b"), 2, "k", window="hour", windows=1, since=NOW)
    any_window = top_up(parse("d", "team=c"), 3, "k", windows=1, since=NOW)
    unknown = top_up(parse("d", "team=d"), 4, "k", window="week", windows=1, since=NOW)
    await put(store, ended, hour, any_window, unknown, to("team=e", 5))
    other = Replica(store)
    for one in (replica, other):
        await one.follower.try_to_follow()
    steps = []
    for later in (3_600, 120, 3_600, 24 * 3_600):
        for one in (replica, other):
            one.now += later
            await one.follower.tidy()
            await one.follower.try_to_follow()
        steps.append(replica.amounts)
    assert [[1, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5], [4, 5]] == steps
    assert [4, 5] == other.amounts
    lines = await store.audit()
    assert [AUTHOR] * 3 + ["ana"] * 5 == [line.author for line in lines]
    assert "it has ended" == lines[0].reason


async def test_a_prolonged_amendment_is_not_removed(store: Failing, replica: Replica) -> None:
    """Another operator has prolonged it, and this replica has not read that yet."""
    await put(store, to("team=a", 1, until=NOW + 60))
    await replica.follower.try_to_follow()
    longer = to("team=a", 1, until=NOW + 999_999)
    await put(store, longer)
    replica.now += 8_000
    await replica.follower.tidy()
    await replica.follower.try_to_follow()
    assert [longer] == list(replica.amendments)


async def test_kinds_that_only_a_later_version_knows_are_counted(replica: Replica, store: Failing) -> None:
    """They may be why a replica that is not yet upgraded shows another limit."""

    async def news(version: int, stamp: str) -> News:
        return News(1, "s", (to("team=a", 1),), (), True, 2)

    store.news = news  # type: ignore[method-assign]
    await replica.follower.try_to_follow()
    assert (2, [1]) == (replica.follower.unreadable, replica.amounts)
