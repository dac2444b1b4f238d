"""Crossings of thresholds, each of which is reported once over all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import COUNTER_MAX, DescriptorRule, Hit, Limit, Override, Request, Unit
from ratelimit_service.observe import thresholds as module
from ratelimit_service.observe.thresholds import thresholds
from ratelimit_service.ports import CounterStore, OnOutcomes
from ratelimit_service.stores.memory import MemoryStore, weight_of
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from tests.limiter import MIDNIGHT, descriptor

from .replica import DAY, HOUR, FailsMarkers, Replica, budget, crossings

KEY = "{d|team=dba}:hour:2026-11-21T00Z"
HOURLY = Limit(100, HOUR, "hourly")
TEAM = budget("team", HOURLY, warn_at=(0.5, 0.8, 1.0))

NewStore = Callable[[], CounterStore]


@pytest.fixture(params=["memory", "memory, deferred", "redis"])
async def new_store(request: pytest.FixtureRequest) -> AsyncIterator[NewStore]:
    """Makes stores for replicas that share their counters."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.cli("FLUSHALL")
        stores: list[RedisStore] = []

        def connected() -> RedisStore:
            stores.append(RedisStore(connect(server.url)))
            return stores[-1]

        yield connected
        for store in stores:
            await store.close()
    else:
        defer = asyncio.get_running_loop().call_soon if "deferred" in request.param else None
        shared = MemoryStore(lambda: MIDNIGHT, defer=defer)
        yield lambda: shared


# Where a threshold is.


@pytest.mark.parametrize(
    "shares, amount, expected",
    [
        ((0.5, 0.8, 1.0), 100, [("0.5", "50", 50), ("0.8", "80", 80), ("1", "100", 100)]),
        ((0.125,), 100, [("0.125", "12.5", 13)]),
        ((0.5,), 5, [("0.5", "50", 3)]),
        ((0.5,), 1, [("0.5", "50", 1)]),
        ((0.07, 0.29), 100, [("0.07", "7", 7), ("0.29", "29", 29)]),  # 0.07 * 100 is a little more than 7
        ((0.1,), 3, [("0.1", "10", 1)]),
        ((1e-05,), 1_000_000, [("0.00001", "0.001", 10)]),
        ((1.0,), COUNTER_MAX, [("1", "100", COUNTER_MAX)]),
        ((0.5, 1.0), 0, []),
    ],
)
def test_a_threshold_is_a_share_of_the_limit_rounded_up(
    shares: tuple[float, ...], amount: int, expected: list[tuple[str, str, int]]
) -> None:
    """It is computed in exact decimal arithmetic. A limit of 0 has no thresholds."""
    assert expected == [(one.text, one.percent, one.line) for one in thresholds(shares, amount)]


@given(st.integers(1, 1_000), st.integers(1, COUNTER_MAX))
def test_a_threshold_is_the_least_that_is_such_a_share(thousandths: int, amount: int) -> None:
    """The limit may be of any size."""
    (threshold,) = thresholds((thousandths / 1_000,), amount)
    share = Fraction(thousandths, 1_000)
    assert threshold.line - 1 < share * amount <= threshold.line


# When it is told.


async def test_each_threshold_is_reported_by_the_charge_that_crosses_it() -> None:
    """Once; thresholds that one charge crosses together are reported together."""
    replica = Replica(TEAM)
    reported = []
    for hits in (49, 1, 1, 28, 0, 1, 19, 1, 500):
        with capture_logs() as events:
            await replica.ask(hits=hits)
        reported.append([share for _, share in crossings(events)])
    assert [[], [0.5], [], [], [], [0.8], [], [1.0], []] == reported
    with capture_logs() as events:
        await replica.ask("team=other", 100)
    assert [0.5, 0.8, 1.0] == [share for _, share in crossings(events)]


async def test_an_event_has_the_budget_the_share_and_the_reset() -> None:
    """Its level is warning."""
    replica = Replica(TEAM)
    replica.now += 600
    with capture_logs() as events:
        await replica.ask(hits=51)
    assert [
        {
            "event": "budget threshold crossed",
            "log_level": "warning",
            "bucket": KEY,
            "rule": "hourly",
            "share": 0.5,
            "used": 51,
            "limit": 100,
            "resets_in": 3000,
        }
    ] == events
    assert [({"domain": "d", "rule": "hourly", "path": "d.team", "window": "hour", "share": "0.5"}, 1)] == [
        (sample.labels, sample.value) for sample in replica.samples("budget_threshold_crossed")
    ]


async def test_every_window_has_its_own_thresholds() -> None:
    """The hour may be exhausted while the day has hardly begun."""
    replica = Replica(budget("team", Limit(100, HOUR), Limit(400, DAY), warn_at=(0.5, 1.0)))
    with capture_logs() as events:
        await replica.ask(hits=200)
    day = "{d|team=dba}:day:2026-11-21"
    assert [(KEY, 0.5), (KEY, 1.0), (day, 0.5)] == crossings(events)


async def test_the_next_window_has_its_own_thresholds() -> None:
    """It has another counter, and so other markers."""
    replica = Replica(TEAM)
    with capture_logs() as events:
        await replica.ask(hits=50)
        replica.now += 3600
        await replica.ask(hits=49)
        await replica.ask(hits=1)
    assert [(KEY, 0.5), ("{d|team=dba}:hour:2026-11-21T01Z", 0.5)] == crossings(events)


@pytest.mark.parametrize(
    "rule",
    [
        budget("team", HOURLY, warn_at=(0.5,), shadow=True),
        budget("team", HOURLY, warn_at=(0.5,), quota=True),
        budget("team", HOURLY, warn_at=(0.5,), budget=False),
    ],
    ids=["shadow", "quota", "requests"],
)
async def test_rules_that_are_no_enforced_budgets_warn_too(rule: DescriptorRule) -> None:
    """A rule in shadow mode shows what it would refuse."""
    replica = Replica(rule)
    with capture_logs() as events:
        await replica.ask(hits=50)
    assert [(KEY, 0.5)] == crossings(events)


async def test_checks_and_uncounted_hits_cross_no_threshold() -> None:
    """A check or a refused request uses nothing."""
    replica = Replica(budget("team", HOURLY, warn_at=(0.5,), budget=False, count_refused=False))
    with capture_logs() as events:
        await replica.ask(hits=49)
        await replica.ask(hits=0)
        await replica.ask(hits=52)
    assert [] == crossings(events)


async def test_a_limit_that_a_request_brings_warns_as_the_rule_that_it_overrides() -> None:
    """The thresholds are shares of its own amount."""
    replica = Replica(TEAM)
    with capture_logs() as events:
        await replica.service.should_rate_limit(
            Request("d", (descriptor("team=dba", 500, Override(1_000, Unit.HOUR)),))
        )
    assert [(KEY, 0.5)] == crossings(events)


# Once in all replicas.


async def test_replicas_that_share_a_store_report_each_crossing_once(new_store: NewStore) -> None:
    """Whichever replicas took part, and in whatever order."""
    replicas = [Replica(TEAM, store=new_store()) for _ in range(2)]
    with capture_logs() as events:
        charges = [replica.ask(f"team={team}", 1) for team in "ab" for _ in range(60) for replica in replicas]
        await asyncio.gather(*charges)
        for replica in replicas:
            await replica.reported()
    reported = [
        (f"{{d|team={team}}}:hour:2026-11-21T00Z", share) for team in "ab" for share in (0.5, 0.8, 1.0)
    ]
    assert reported == sorted(crossings(events))
    counted = [sample.value for replica in replicas for sample in replica.samples("budget_threshold_cr")]
    assert 6 == sum(counted)
    assert [0, 0] == [replica.thresholds.lost for replica in replicas]


async def test_a_threshold_crossed_again_after_a_refund_is_not_reported_again(new_store: NewStore) -> None:
    """Neither the replica that reported it nor another one does so."""
    one, other = (Replica(TEAM, store=new_store()) for _ in range(2))
    reported = []
    for replica, hits in [
        (one, 60),
        (other, -30),
        (other, 30),
        (one, -60),
        (one, 60),
        (other, 0),
        (other, 20),
    ]:
        with capture_logs() as events:
            await replica.ask(hits=hits)
            await replica.reported()
        reported.append([share for _, share in crossings(events)])
    assert [[0.5], [], [], [], [], [], [0.8]] == reported


async def test_an_unseen_crossing_is_reported_by_the_next_charge_beyond_it(
    new_store: NewStore,
) -> None:
    """If the store counts a charge and answers too late, a later check is enough to detect the crossing."""
    store = new_store()
    replicas = [Replica(TEAM, store=store) for _ in range(2)]
    counted = asyncio.Event()
    store.hit([[Hit(KEY, 60, ttl=3600)]], lambda outcomes: counted.set())
    await asyncio.wait_for(counted.wait(), 10)
    with capture_logs() as events:
        for replica in (*replicas, *replicas):
            await replica.ask(hits=0)
            await replica.reported()
    assert [(KEY, 0.5)] == crossings(events)


async def test_a_bucket_that_is_reset_is_reported_again(new_store: NewStore) -> None:
    """Its markers belong to the bucket, and are deleted with it."""
    replica = Replica(TEAM, store=new_store())
    with capture_logs() as events:
        await replica.ask(hits=80)
        await replica.reported()
        held = await replica.store.read_bucket("{d|team=dba}")
        await replica.store.delete_counters([*held])
        await replica.ask(hits=60)
        await replica.reported()
    assert {KEY: 80, f"{KEY}:warned-50": 1, f"{KEY}:warned-80": 1} == held
    assert [(KEY, 0.5), (KEY, 0.8), (KEY, 0.5)] == crossings(events)


async def test_a_marker_outlives_its_window_by_a_minute(redis_server: RedisServer, redis_url: str) -> None:
    """So a replica whose clock is slow finds it."""
    replica = Replica(TEAM, store=RedisStore(connect(redis_url)))
    replica.now += 600
    with capture_logs():
        await replica.ask(hits=50)
        await replica.reported()
    await replica.store.close()
    assert 3055 <= int(redis_server.cli("TTL", f"{KEY}:warned-50")) <= 3060


async def test_closing_a_store_waits_for_crossings(redis_url: str) -> None:
    """The last charge of a process may be the one that crosses a threshold."""
    replica = Replica(TEAM, store=RedisStore(connect(redis_url)))
    with capture_logs() as events:
        asking = asyncio.create_task(replica.ask(hits=50))
        await asyncio.sleep(0)  # it has been handed over, and no more
        await replica.store.close()
        await asking
    assert [(KEY, 0.5)] == crossings(events)


# Where the store fails.


@pytest.mark.parametrize("alone", [False, True])
async def test_a_crossing_that_cannot_be_claimed_is_counted_and_dropped(alone: bool) -> None:
    """Another replica may have reported it; the caller is answered in any case."""
    store = FailsMarkers(alone=alone)
    replica = Replica(TEAM, store=store)
    with capture_logs() as events:
        decision = await replica.ask(hits=80)
        await replica.ask(hits=0)
    assert [20] == [status.remaining for status in decision.statuses]
    assert ([], [f"{KEY}:warned-50", f"{KEY}:warned-80"]) == (crossings(events), store.tried)
    assert [2] == [sample.value for sample in replica.samples("budget_threshold_lost")]


async def test_crossings_that_wait_for_the_store_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones are lost and counted; when the store answers, there is room again."""
    monkeypatch.setattr(module, "MOST_IN_FLIGHT", 3)

    class Holds(MemoryStore):
        """Holds back its answers about markers until the test releases them."""

        def __init__(self) -> None:
            super().__init__(lambda: MIDNIGHT)
            self.held: list[Callable[[], None]] = []

        def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
            if any([":warned-" in hit.key for group in groups for hit in group]):
                self.held.append(lambda: MemoryStore.hit(self, groups, on_outcomes))
            else:
                super().hit(groups, on_outcomes)

    store = Holds()
    replica = Replica(TEAM, store=store)
    with capture_logs() as events:
        for team in ("a", "b", "c"):
            await replica.ask(f"team={team}", 80)
        assert (2, 4) == (replica.thresholds.in_flight, replica.thresholds.lost)
        for speak in store.held:
            speak()
        await replica.ask("team=d", 80)
    assert (2, 4) == (replica.thresholds.in_flight, replica.thresholds.lost)
    assert [("{d|team=a}:hour:2026-11-21T00Z", share) for share in (0.5, 0.8)] == crossings(events)


async def test_a_full_memory_store_costs_the_event_and_nothing_else() -> None:
    """There is room for the counter, but none for a marker."""
    replica = Replica(
        TEAM, store=MemoryStore(lambda: MIDNIGHT, size=weight_of("{d|team=a}:hour:2026-11-21T00Z") + 400)
    )
    with capture_logs() as events:
        decision = await replica.ask(hits=50)
    assert (50, [], 1) == (decision.statuses[0].remaining, crossings(events), replica.thresholds.lost)
    with pytest.raises(StoreError):
        await replica.ask("team=other", 1)
