"""The last refusals, and the series of viewed buckets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ratelimit_service.core.amendments.model import override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.budgets.bucket import Budget, BudgetWindow
from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Code, Decision, Descriptor, Entry
from ratelimit_service.core.plan import Plan
from ratelimit_service.core.rules.document import Contents
from ratelimit_service.inspection.listing import Lister
from ratelimit_service.inspection.refusals import KEPT, MOST_A_SECOND, Refusal, Refusals
from ratelimit_service.inspection.replicas import Registry
from ratelimit_service.inspection.series import FORGOTTEN_AFTER, MOST, POINTS, Point, Series
from ratelimit_service.inspection.views import Views
from ratelimit_service.loading.rulebook import Rulebook
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import InForce
from tests.limiter import Limiter, NoObserver

RULES = """
domain: d
unmatched: deny
descriptors:
  - key: team
    rate_limits:
      - {name: hourly, unit: hour, tokens_per_unit: 100}
      - {unit: day, tokens_per_unit: 1000}
  - key: trial
    shadow_mode: true
    rate_limit: {unit: hour, requests_per_unit: 1}
"""


class Noting(NoObserver):
    """An observer that notes refusals like that of the service."""

    def __init__(self) -> None:
        self.refusals = Refusals()

    def decided(self, plan: Plan, decision: Decision) -> None:
        if decision.code is not Code.OK:
            self.refusals.note(plan, decision)


class Noted(Limiter):
    """A service whose refusals are noted."""

    def __init__(self) -> None:
        observer = Noting()
        super().__init__(RULES, observer=observer)
        self.refusals = observer.refusals

    def charge(self, *entries: tuple[bytes, bytes], hits: int = 1) -> None:
        """Send a request with one descriptor."""
        self.ask(Descriptor(tuple([Entry(*entry) for entry in entries]), hits_addend=hits))


@pytest.fixture
def limiter() -> Noted:
    return Noted()


def test_a_refusal_has_its_bucket_and_its_reason(limiter: Noted) -> None:
    """A limit has its window, and a block or a domain its reason. Allowed requests are not noted."""
    refusals = limiter.refusals
    limiter.charge((b"team", b"dba"), hits=150)
    limiter.charge((b"trial", b"x"))
    limiter.charge((b"trial", b"x"))
    assert [] == refusals.since()
    limiter.charge((b"team", b"dba"), hits=5)
    limiter.amend(override(parse("d", "team=out"), 0, since=1, author="ana", reason="r"))
    limiter.charge((b"team", b"out"))
    limiter.charge((b"other", b"x"))
    denied, blocked, over = refusals.since()
    assert ("over", "d.team", "hour", "hourly", 100, 155, 5) == (
        over.reason,
        over.rule,
        over.window,
        over.name,
        over.limit,
        over.used,
        over.hits,
    )
    assert ("blocked", 0) == (blocked.reason, blocked.limit)
    assert ("no rule matches other=x", "", None) == (denied.reason, denied.rule, denied.limit)
    assert [denied, blocked] == refusals.since(over.id)
    assert over.at == int(limiter.now)


def test_a_flood_costs_no_more_than_some_of_it(limiter: Noted) -> None:
    """The number of noted refusals is bounded for each second and in total."""
    refusals = limiter.refusals
    for _ in range(3 * MOST_A_SECOND):
        limiter.charge((b"other", b"x"))
    assert (MOST_A_SECOND, 2 * MOST_A_SECOND) == (len(refusals.since()), refusals.missed)
    for _ in range(KEPT):
        limiter.now += 1
        limiter.charge((b"other", b"x"))
    found = refusals.since()
    assert KEPT == len(found)
    assert sorted({each.id for each in found}, reverse=True) == [each.id for each in found]


def test_a_refusal_is_small_whatever_the_request_has_in_it(limiter: Noted) -> None:
    refusals = limiter.refusals
    limiter.charge(*[(b"k" * 5_000, b"\xff" * 8_000)] * 30)
    (found,) = refusals.since()
    assert found.cut
    assert sum(len(key) + len(value) for key, value in found.entries) <= 2_000
    assert len(found.reason) <= 300


class Reading:
    """A bucket whose use a test sets, with clocks."""

    def __init__(self) -> None:
        self.used: int | None = 0
        self.key = "hour"
        self.dead = False
        self.reads = 0
        self.seconds = 0.0
        self.series = Series(self.read, lambda: self.seconds, lambda: self.seconds)

    async def read(self, domain: str, entries: tuple[Entry, ...]) -> Budget | None:
        self.reads += 1
        if self.dead:
            raise StoreError("it is dead")
        if domain != "d":
            return None
        windows = (
            BudgetWindow(self.key, self.key, self.used, 0, 0),
            BudgetWindow("day", "day", self.used, 0, 0),
        )
        return Budget(domain, entries, "", None, windows)

    async def of(self, value: bytes = b"dba") -> Any:
        return await self.series.of("d", (Entry(b"team", value),))

    async def step(self, used: int | None) -> None:
        self.seconds += 2
        self.used = used
        await self.series.step()


async def test_a_series_has_the_charges_of_each_step() -> None:
    """A reset or a new window is not a charge. A failed read leaves a gap."""
    bench = Reading()
    bench.used = 100
    assert [] == await bench.of()
    await bench.step(130)
    await bench.step(130)
    bench.key = "next hour"
    await bench.step(150)
    await bench.step(0)
    bench.dead = True
    await bench.step(5)
    bench.dead = False
    await bench.step(7)
    points = await bench.of()
    await bench.series.close()
    assert [Point(2, 30), Point(4, 0), Point(6, 20), Point(8, 0), Point(12, 7)] == points


async def test_a_series_without_a_rule_is_none() -> None:
    assert None is await Reading().series.of("other", (Entry(b"team", b"x"),))


async def test_buckets_are_followed_while_they_are_viewed() -> None:
    """The numbers of buckets and of points are bounded."""
    bench = Reading()
    for number in range(MOST + 10):
        await bench.of(str(number).encode())
    bench.reads = 0
    await bench.step(1)
    assert MOST == bench.reads
    for used in range(2, POINTS + 100):
        if not used % 20:
            await bench.of()
        await bench.step(used)
    assert POINTS == len(await bench.of())
    bench.seconds += FORGOTTEN_AFTER + 1
    bench.reads = 0
    await bench.series.step()
    assert 0 == bench.reads
    await bench.series.close()


class Others:
    """Two other workers: one with a later refusal, and one with a much earlier one."""

    def __init__(self, *refusals: Refusal) -> None:
        self._refusals = refusals
        self.shared: list[str] = []

    def share(self, name: str, provide: Callable[[], Awaitable[Any]]) -> None:
        self.shared.append(name)

    async def ask(self, name: str, *arguments: Any) -> list[Any]:
        return [[each] for each in self._refusals]


async def test_the_refusals_of_all_workers_are_seen_together(limiter: Noted) -> None:
    """They are sorted by time. Each worker has its own list."""
    limiter.charge((b"other", b"x"))
    (own,) = limiter.refusals.since()
    others = Others(own._replace(id=own.id + 5_000_000), own._replace(id=own.id - 5_000_000))
    lister = Lister(limiter.store, limiter.amendments, lambda: limiter.service.tree)
    registry = Registry(limiter.store.replicas, InForce)
    views = Views(
        limiter.store,
        limiter.amendments,
        lister,
        registry,
        Rulebook([limiter.service], Contents, Metrics(), merge_domains=False),
        limiter.service.foresee,
        limiter.refusals,
        others,
    )
    found = [each.id - own.id for each in await views.refusals()]
    assert ([5_000_000, 0, -5_000_000], ["refusals"]) == (found, others.shared)
    assert [5_000_000] == [each.id - own.id for each in await views.refusals(own.id)]
    assert [5_000_000] == [each.id - own.id for each in await views.refusals(most=1)]
