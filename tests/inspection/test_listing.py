"""Lists of budgets: lists in parts, pages before the end of a sweep, and repeated lists."""

from __future__ import annotations

import asyncio
import base64
import gc
import weakref

import pytest

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.budgets.state import State
from ratelimit_service.core.errors import InvalidRequest, StoreError
from ratelimit_service.core.matching import keys
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Hit
from ratelimit_service.core.rules.reader import load
from ratelimit_service.inspection import sweep
from ratelimit_service.inspection.listing import (
    MORE_PARTS,
    STILL_READING,
    SWEPT_AGAIN,
    UNUSED,
    Lister,
)
from ratelimit_service.inspection.query import Cursor, Query, read_cursor
from ratelimit_service.ports import WalkStep
from ratelimit_service.sources import csv_text
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore

NOW = 1_795_249_200.0
RULES = """
domain: d
descriptors:
  - key: user
    rate_limits:
      - {name: hourly, unit: hour, tokens_per_unit: 1000}
      - {unit: day, tokens_per_unit: 5000}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)
ANY = Query("d", sort="name")


class Store(MemoryStore):
    """A memory store that can be stopped, and that can fail."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.open = asyncio.Event()
        self.open.set()
        self.dead = False
        self.walks = self.walking = self.most = 0

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        self.walks += 1
        self.walking += 1
        self.most = max(self.most, self.walking)
        try:
            await self.open.wait()
        finally:
            self.walking -= 1
        if self.dead:
            raise StoreError("it is dead")
        return await super().walk(begin, part, position)

    def charge(self, *users: str, amount: int = 1) -> None:
        for user in users:
            for window in ("hour:2026-11-21T08Z", "day:2026-11-21"):
                key = f"{{d|user={user}}}:{window}"
                self.hit([[Hit(key, amount, ttl=60)]], lambda outcomes: None)


class Bench:
    """A lister over a store, with the clock that ages its sweeps."""

    def __init__(self, patience: float = 30) -> None:
        self.store = Store()
        self.amendments = Amendments()
        self.seconds = 0.0
        self.tree = TREE
        self.lister = Lister(
            self.store,
            self.amendments,
            lambda: self.tree,
            now=lambda: NOW,
            clock=lambda: self.seconds,
            first_answer=patience,
        )

    async def users(self, query: Query = ANY, oldest: float | None = None) -> list[str]:
        page = await self.lister.budgets(query, oldest=oldest)
        return [each.entries[0].value.decode() for each in page.budgets]

    async def settled(self) -> None:
        """Wait for the background tasks."""
        for kept in (*self.lister._sweeps.values(), *self.lister._next.values()):
            await kept.task


async def all_pages(bench: Bench, query: Query) -> tuple[list[str], set[str]]:
    cursor, users, reasons = "", [], set()
    while True:
        page = await bench.lister.budgets(query, cursor)
        users += [each.entries[0].value.decode() for each in page.budgets]
        reasons.add(page.partial_reason)
        cursor = page.next_cursor
        if not cursor:
            return users, reasons


async def test_a_list_in_parts_has_each_budget_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its windows may be in several parts. The list says that it is sorted only within a part."""
    monkeypatch.setattr(sweep, "MOST_ROWS", 7)
    bench = Bench()
    bench.store.charge(*map(str, range(60)))
    users, reasons = await all_pages(bench, Query("d", limit=3))
    assert sorted(map(str, range(60))) == sorted(users)
    assert {MORE_PARTS} == reasons


async def test_a_filter_by_use_finds_the_few_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filtered budgets take no room in a part."""
    monkeypatch.setattr(sweep, "MOST_ROWS", 7)
    bench = Bench()
    bench.store.charge(*map(str, range(200)))
    bench.store.charge("near", amount=900)
    page = await bench.lister.budgets(Query("d", min_used=0.8))
    assert (["near"], False) == ([each.entries[0].value.decode() for each in page.budgets], page.partial)


async def test_a_page_does_not_wait_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says that it is partial, its cursor leads to the rest, and a later request for it is
    complete.
    """
    bench = Bench(patience=0.01)
    bench.store.charge("a", "b")
    bench.store.open.clear()
    page = await bench.lister.budgets(ANY)
    assert ((), True, STILL_READING) == (page.budgets, page.partial, page.partial_reason)
    bench.store.open.set()
    await bench.settled()
    assert ["a", "b"] == await bench.users()
    rest = await bench.lister.budgets(ANY, page.next_cursor)
    assert ((2), "") == (len(rest.budgets), rest.partial_reason)


async def test_a_store_that_cannot_be_read_is_an_error_until_it_can() -> None:
    bench = Bench()
    bench.store.charge("a")
    bench.store.dead = True
    with pytest.raises(StoreError, match="it is dead"):
        await bench.users()
    bench.store.dead = False
    assert ["a"] == await bench.users()


async def test_pages_share_a_sweep_and_read_current_counts() -> None:
    """The order is that of the sweep, and the use on a page is current."""
    bench = Bench()
    bench.store.charge("a", amount=5)
    bench.store.charge("b", amount=1)
    query = Query("d")
    assert ["a", "b"] == await bench.users(query)
    walks = bench.store.walks
    bench.store.charge("b", amount=998)
    bench.store.charge("new")
    page = await bench.lister.budgets(query)
    assert [("a", 5), ("b", 999)] == [(e.entries[0].value.decode(), e.windows[0].used) for e in page.budgets]
    assert walks == bench.store.walks
    bench.seconds += SWEPT_AGAIN
    assert ["a", "b"] == await bench.users(query)  # the next one is begun, and nobody waits for it
    await bench.settled()
    assert ["b", "a", "new"] == await bench.users(query)


async def test_a_list_that_was_not_used_for_long_is_read_again_before_it_is_shown() -> None:
    """A command shows one page: that of yesterday would lack the budgets that are near their limits now.

    A list that is used is replaced without a gap.
    """
    bench = Bench()
    bench.store.charge("bob")
    near = Query("d", sort="-used", min_used=0.5)
    assert ([], ["bob"]) == (await bench.users(near), await bench.users())
    bench.store.charge("amy", amount=900)
    assert [] == await bench.users(near)
    bench.seconds += SWEPT_AGAIN + UNUSED
    assert (["amy"], ["amy", "bob"]) == (await bench.users(near), await bench.users())
    bench.store.charge("carl", amount=950)
    bench.seconds += SWEPT_AGAIN
    assert ["amy"] == await bench.users(near)
    await bench.settled()
    assert ["carl", "amy"] == await bench.users(near)


async def test_a_list_can_be_wanted_as_young_as_the_preview_of_a_change() -> None:
    """A reset by pattern would miss a budget that an earlier list did not have."""
    bench = Bench()
    bench.store.charge("bob")
    assert ["bob"] == await bench.users()
    bench.store.charge("amy")
    assert ["bob"] == await bench.users()
    assert ["amy", "bob"] == await bench.users(oldest=0.0)
    bench.store.charge("carl")
    bench.seconds += 5
    assert ["amy", "bob"] == await bench.users(oldest=5.5)
    assert ["amy", "bob", "carl"] == await bench.users(oldest=4.5)
    await bench.lister.close()


async def test_a_bucket_with_a_long_value_has_the_limit_of_its_amendment() -> None:
    """Its counters have a digest of the value, and its amendment or its limit as data has the value."""
    bench = Bench()
    long = "x" * 200
    text = keys.escape(long.encode())
    bench.store.charge(text)
    (before,) = (await bench.lister.budgets(ANY)).budgets
    assert (text, True, State.OK) == (before.entries[0].value.decode(), before.hashed, before.state)
    block = override(parse("d", f"user={long}"), 0)
    bench.amendments.put(block)
    blocked = Query("d", sort="name", state="blocked")
    (after,) = (await bench.lister.budgets(blocked)).budgets
    assert (long, False, State.BLOCKED) == (after.entries[0].value.decode(), after.hashed, after.state)
    assert [long] == [each.entries[0].value.decode() for each in (await bench.lister.budgets(ANY)).budgets]
    bench.amendments.remove(block.id)
    (again,) = (await bench.lister.budgets(ANY)).budgets
    assert (text, True) == (again.entries[0].value.decode(), again.hashed)
    table = csv_text.read("limits.csv", f"domain,descriptor,limit\nd,user={long},7\n".encode())
    bench.tree = RuleTree(load([read("rules.yaml", RULES), table]).domains)
    (row,) = (await bench.lister.budgets(ANY)).budgets
    assert (long, [7, 7]) == (row.entries[0].value.decode(), [each.effective for each in row.windows])


async def test_a_list_that_is_still_being_read_is_not_begun_again_by_each_attempt() -> None:
    """Otherwise a client that waits for less than the store takes would never get one, unless it is stuck."""
    bench = Bench(patience=0.01)
    bench.store.charge("bob")
    bench.store.open.clear()
    for _ in range(3):
        assert STILL_READING == (await bench.lister.budgets(ANY, oldest=0.0)).partial_reason
        bench.seconds += 9
    assert 1 == bench.store.walks
    bench.seconds += 9
    assert STILL_READING == (await bench.lister.budgets(ANY, oldest=0.0)).partial_reason
    assert 2 == bench.store.walks
    bench.store.open.set()
    await bench.settled()
    await bench.lister.close()


async def test_rules_and_amendments_that_have_changed_hold_at_once() -> None:
    """A page shows them at once; the order follows with the next sweep."""
    bench = Bench()
    bench.store.charge("a", amount=5)
    await bench.users()
    bench.amendments.put(override(parse("d", "user=a"), 0, since=int(NOW), author="ana", reason="r"))
    (budget,) = (await bench.lister.budgets(ANY)).budgets
    assert ("blocked", 0, 1000) == (
        budget.state.value,
        budget.windows[0].effective,
        budget.windows[0].limit.amount if budget.windows[0].limit else None,
    )
    bench.tree = RuleTree(load([read("r.yaml", RULES.replace("1000", "7"))]).domains)
    (budget,) = (await bench.lister.budgets(ANY)).budgets
    assert 7 == (budget.windows[0].limit.amount if budget.windows[0].limit else None)


async def test_buckets_with_amendments_are_listed_before_they_count_anything() -> None:
    bench = Bench()
    bench.amendments.put(override(parse("d", "user=a"), 0, since=int(NOW), author="ana", reason="r"))
    bench.amendments.put(override(parse("d", "user=b*"), 0, since=int(NOW), author="ana", reason="r"))
    assert ["a"] == await bench.users()


async def test_many_lists_at_once_are_bounded() -> None:
    """Lists that are no longer read end."""
    bench = Bench(patience=0.001)
    bench.store.open.clear()
    for number in range(40):
        await bench.lister.budgets(Query("d", prefix=f"{number}".encode()))
    assert 16 == len(bench.lister._sweeps)
    assert 2 == bench.store.most
    await bench.lister.close()


def cursor_of(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "é",
        "a" * 10_000,
        *map(cursor_of, [b"x", b"-1", b"1\nnan\na", b"1\n1", b"\xff", b"seconds \n\n\n"]),
    ],
)
async def test_a_cursor_that_was_made_up_is_refused(cursor: str) -> None:
    bench = Bench()
    with pytest.raises(InvalidRequest):
        await bench.lister.budgets(ANY, cursor)


def test_a_cursor_can_be_parsed_again() -> None:
    cursor = Cursor("127.0.0.1:1 5", (-1 / 3, "p\n{d|user=é}"))
    assert cursor == read_cursor(str(cursor))
    assert Cursor() == read_cursor("")


@pytest.mark.parametrize(
    "query",
    [
        Query(state="full"),
        Query(sort="value"),
        Query(limit=0),
        Query(limit=1_001),
        Query(min_used=float("nan")),
        Query(min_used=-1),
        Query(value=b"a", prefix=b"b"),
    ],
)
async def test_a_query_for_nothing_that_there_can_be_is_refused(query: Query) -> None:
    with pytest.raises(InvalidRequest):
        await Bench().lister.budgets(query)


async def test_a_list_is_for_a_target_of_amendments() -> None:
    """So a change of many budgets can be previewed. The list has their number."""
    bench = Bench()
    bench.store.charge("premium_1", "premium_2", "free")
    query = Query("d", sort="name", limit=1, target=parse("d", "user=premium_*"))
    page = await bench.lister.budgets(query)
    assert (["premium_1"], 2) == ([each.entries[0].value.decode() for each in page.budgets], page.total)
    with pytest.raises(InvalidRequest):
        await bench.lister.budgets(query._replace(domain=""))


async def test_a_viewed_budget_has_its_rate() -> None:
    """It also has the time of exhaustion if that is before the reset. 20 minutes of the hour and 8 h 20 min
    of the day have passed.
    """
    bench = Bench()
    bench.store.charge("dba", amount=600)
    (budget,) = (await bench.lister.budgets(ANY)).budgets
    assert [600 / 1_200, 600 / 30_000] == [window.burn for window in budget.windows]
    assert [NOW + 400 / 0.5, 0] == [window.runs_out for window in budget.windows]


async def test_a_store_failure_during_a_sweep_keeps_the_found_budgets() -> None:
    """The page names the missing part."""
    bench = Bench()
    bench.store.charge(*map(str, range(50)))
    walk = bench.store.walk

    async def failing(begin: str, part: str = "", position: str = "") -> WalkStep:
        bench.store.dead = position == "64"
        return await walk(begin, part, position)

    bench.store.walk = failing  # type: ignore[method-assign]
    page = await bench.lister.budgets(ANY)
    assert "some of the store cannot be read: it is dead" == page.partial_reason
    assert 0 < len(page.budgets) < 50
    assert None is page.total


async def test_a_list_keeps_no_rules_that_were_replaced() -> None:
    """Replaced rules are released gradually; a list that kept them would release all of them at once."""
    bench = Bench()
    bench.tree = RuleTree(load([read("r.yaml", RULES)]).domains)
    bench.store.charge("a")
    await bench.users()
    await bench.settled()
    before = weakref.ref(bench.tree)
    bench.tree = RuleTree(load([read("r.yaml", RULES)]).domains)
    gc.collect()
    assert None is before()
    assert ["a"] == await bench.users()
