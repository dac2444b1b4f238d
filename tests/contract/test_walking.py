"""The contract of every store about lists of budgets: listing keys, and reading counters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.matching import keys
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, Entry, Hit, Request
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.windows.blocks import span_at
from ratelimit_service.inspection.listing import Lister
from ratelimit_service.inspection.query import Query
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.slots import slot_of
from testing.redis_fleets import RedisCluster
from tests.limiter import NoObserver

from .conftest import NOW
from .kinds import KINDS, stores_of

RULES = """
domain: d
descriptors:
  - key: user
    rate_limits:
      - {unit: hour, tokens_per_unit: 1000}
      - {unit: day, tokens_per_unit: 5000}
  - key: user
    value: never
    rate_limit: {unit: hour, tokens_per_unit: 10}
  - key: second
    rate_limit: {unit: second, requests_per_unit: 10}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)
HOUR, DAY = (limit.window for limit in TREE.domains["d"].rules[0].limits)


@dataclass
class Walking:
    store: CounterStore
    prefix: str
    amendments: Amendments

    def key(self, user: bytes, window: object = HOUR, domain: str = "d", key: bytes = b"user") -> str:
        bucket = keys.bucket(self.prefix, keys.domain_text(domain), [keys.entry_text(key, user)])
        return f"{bucket}:{span_at(window, int(NOW)).label}"  # type: ignore[arg-type]

    async def charge(self, **used: int) -> None:
        """Charge users in the hour and in the day."""
        await self.hit({self.key(user.encode(), w): n for user, n in used.items() for w in (HOUR, DAY)})

    async def hit(self, used: dict[str, int]) -> None:
        groups = [[Hit(key, amount, ttl=3_600)] for key, amount in used.items()]
        for first in range(0, len(groups), 500):
            done: list[object] = []
            self.store.hit(groups[first : first + 500], done.extend)
            while not done:
                await self.store.ping()

    async def walked(self, begin: str, part: str = "") -> set[str]:
        found: set[str] = set()
        position = ""
        while True:
            some, position = await self.store.walk(begin, part, position)
            found.update(some)
            if not position:
                return found

    def lister(self) -> Lister:
        return Lister(
            self.store, self.amendments, lambda: TREE, self.prefix, now=lambda: NOW, first_answer=30
        )


@pytest.fixture(params=KINDS)
async def walking(request: pytest.FixtureRequest) -> AsyncIterator[Walking]:
    memory = "memory" in request.param
    stores = [MemoryStore(lambda: NOW)] if memory else stores_of(request, request.param)
    for store in stores:
        await store.start()
    yield Walking(stores[0], "{rl}:" if "prefix" in request.param else "", Amendments())
    for store in stores:
        await store.close()


async def test_a_walk_returns_every_key_with_the_prefix(walking: Walking) -> None:
    """Keys of other domains are left out, and glob characters have no special meaning."""
    mine = {walking.key(f"{n}".encode()) for n in range(700)} | {walking.key(b"\xff*[a]")}
    others = {walking.key(b"1", domain="dd"), walking.key(b"1", domain="D")}
    await walking.hit(dict.fromkeys([*mine, *others], 1))
    begin = f"{walking.prefix}{{d|"
    assert mine == await walking.walked(begin)
    assert {walking.key(b"7")} == await walking.walked(begin, "user=7}")
    assert {walking.key(b"\xff*[a]")} == await walking.walked(begin, "=%FF%2A%5Ba")
    assert set() == await walking.walked(begin, "user=*")
    assert set() == await walking.walked(f"{walking.prefix}{{[d]|")


async def test_existing_counters_are_read(walking: Walking) -> None:
    """Many at once, in any slots. Counters of seconds may be in a separate store."""
    wanted = {walking.key(f"{n}".encode()): n + 1 for n in range(250)}
    wanted[f"{walking.prefix}{{d|second=x}}:second:2026-11-21T01:00:00Z"] = 5
    await walking.hit(wanted)
    assert wanted == await walking.store.read_counters([*wanted, walking.key(b"nobody")])
    assert {} == await walking.store.read_counters([])


async def test_an_unknown_position_is_refused(walking: Walking) -> None:
    """It comes from a cursor in a request, which may have any content."""
    for position in ("x", "-1", "1e3", "²", "9" * 40, "seconds x", "127.0.0.1:1 x"):
        with pytest.raises(InvalidRequest, match="is not a position"):
            await walking.store.walk("{d|", "", position)


async def test_budgets_are_listed_by_usage(walking: Walking) -> None:
    """With every window and the amendments. There is no page after the last one."""
    await walking.charge(low=850, over=1000, ok=10, blocked=1)
    target = parse("d", "user=blocked")
    walking.amendments.put(override(target, 0, since=int(NOW), author="ana", reason="r"))
    lister = walking.lister()
    page = await lister.budgets(Query("d", key=b"user"))
    assert not page.partial, page.partial_reason
    shown = [(each.entries[0].value, each.state.value, each.share) for each in page.budgets]
    assert [
        (b"blocked", "blocked", 1.0),
        (b"over", "over", 1.0),
        (b"low", "low", 0.85),
        (b"ok", "ok", 0.01),
        (b"never", "ok", 0.0),
    ] == shown
    windows = [(w.name, w.used, w.effective, w.state.value) for w in page.budgets[2].windows]
    assert [("hour", 850, 1000, "low"), ("day", 850, 5000, "ok")] == windows
    assert "" == page.next_cursor
    for query, expected in (
        (Query("d", state="over"), [b"over"]),
        (Query("d", min_used=0.8), [b"blocked", b"over", b"low"]),
        (Query("d", key=b"user", prefix=b"o"), [b"over", b"ok"]),
        (Query("d", value=b"low"), [b"low"]),
        (Query("d", key=b"user", sort="name", limit=2), [b"blocked", b"low"]),
        (Query("other"), []),
        (Query("d", key=b"team"), []),
    ):
        budgets = (await lister.budgets(query)).budgets
        assert expected == [each.entries[0].value for each in budgets], query
    await lister.close()


async def test_each_budget_is_on_one_page(walking: Walking) -> None:
    """Any replica can continue from a cursor. A budget that changes between two pages moves no other."""
    await walking.charge(**{f"user{n:03}": 1 + n for n in range(120)})
    cursor, seen = "", []
    for number in range(20):
        page = await walking.lister().budgets(Query("d", key=b"user", limit=25), cursor)
        seen += [each.entries[0].value for each in page.budgets]
        await walking.hit({walking.key(b"user119"): 1 + number})
        cursor = page.next_cursor
        if not cursor:
            break
    expected = [f"user{n:03}".encode() for n in range(119, -1, -1)]
    assert [*expected, b"never"] == seen


async def test_one_bucket_is_read_by_its_descriptor(walking: Walking) -> None:
    """Also before it has counted anything. Without a rule there is none."""
    await walking.charge(dba=7)
    lister = walking.lister()
    found = await lister.budget("d", (Entry(b"user", b"dba"),))
    assert found is not None
    assert [("hour", 7), ("day", 7)] == [(w.name, w.used) for w in found.windows]
    empty = await lister.budget("d", (Entry(b"user", b"x"),))
    assert empty is not None
    assert [0, 0] == [w.used for w in empty.windows]
    assert None is await lister.budget("d", (Entry(b"nobody", b"x"),))
    assert None is await lister.budget("nowhere", (Entry(b"user", b"x"),))


async def test_counters_without_a_rule_are_listed_without_a_limit(walking: Walking) -> None:
    """Their rule was removed, or the limit was in the request. Other keys are not listed."""
    key = f"{walking.prefix}{{d|gone=x}}:hour:2026-11-21T01Z"
    marker = walking.key(b"dba") + ":warned-80"
    await walking.hit({key: 5, marker: 1, f"{walking.prefix}{{d|no counter": 1})
    page = await walking.lister().budgets(Query("d", sort="name"))
    (stray,) = [each for each in page.budgets if each.rule is None]
    assert [("hour", 5, None)] == [(w.name, w.used, w.limit) for w in stray.windows]
    assert (Entry(b"gone", b"x"),) == stray.entries


async def test_counters_are_read_while_their_slot_moves(redis_cluster: RedisCluster) -> None:
    """From the old server, from the new one, or after a redirect."""
    store = ClusterStore(lambda address: at_address(address, Link(timeout=5.0)), redis_cluster.addresses())
    await store.start()
    walking = Walking(store, "", Amendments())
    names = [f"{{d|user=moves}}:{number}hour:2026-11-21T08Z" for number in range(2, 32)]
    await walking.hit({name: number + 1 for number, name in enumerate(names)})
    wanted = {name: number + 1 for number, name in enumerate(names)}
    slot = slot_of(names[0])
    source, target = redis_cluster.begin_to_move(slot)
    try:
        redis_cluster.move_keys(slot, source, target)
        assert wanted == await store.read_counters(names)
        while redis_cluster.move_keys(slot, source, target):
            pass
        assert wanted == await store.read_counters(names)
    finally:
        redis_cluster.end_move(slot, target)
    assert wanted == await store.read_counters(names)
    assert set(names) == await walking.walked("{d|", "user=moves")
    await store.close()


HOLDING = """
domain: d
descriptors:
  - key: user
    rate_limits: [{unit: hour, tokens_per_unit: 1000}]
    hold: 60
"""


async def test_a_budget_shows_its_holds(walking: Walking) -> None:
    """Until they expire. A rule without holds shows none."""
    service = RateLimitService(walking.store, NoObserver(), lambda: NOW, Policy(key_prefix=walking.prefix))
    tree = RuleTree(load([read("rules.yaml", HOLDING)]).domains)
    service.use(tree)
    entries = (Entry(b"user", b"dba"),)
    for _ in range(3):
        await service.should_rate_limit(Request("d", (Descriptor(entries, hits_addend=0),)))
    now = [NOW]
    lister = Lister(
        walking.store, walking.amendments, lambda: tree, walking.prefix, now=lambda: now[0], first_answer=30
    )
    found = await lister.budget("d", entries)
    assert found is not None
    assert [(0, 180)] == [(window.used, window.held) for window in found.windows]
    now[0] += 61
    found = await lister.budget("d", entries)
    assert found is not None
    assert [0] == [window.held for window in found.windows]
    other = await walking.lister().budget("d", entries)
    assert other is not None
    assert {None} == {window.held for window in other.windows}
