"""Profiles of buckets, learned from the ledgers of real stores, and the forecasts that are made by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest
import structlog

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.budgets.forecasting import Foreseen
from ratelimit_service.core.budgets.profile import KEPT_DAYS, Profile
from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.ledger.rule import LedgerRule
from ratelimit_service.core.model import DescriptorRule, Entry, Limit, Unit, Window
from ratelimit_service.inspection.listing import Lister
from ratelimit_service.inspection.profiles import Profiles, _Known
from ratelimit_service.ports import CounterStore
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from testing.waiting import until
from tests.limiter import MIDNIGHT
from tests.observe.replica import DAY, Replica, budget

HOUR_LONG, DAY_LONG = 3_600, 86_400
BUCKET = "{d|team=dba}"


at_midnight = partial(Profiles, random_share=lambda: 0.0)
"""Makes profiles whose day begins at midnight."""


class Moved:
    """A clock that tests move."""

    def __init__(self, now: float = MIDNIGHT) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CounterStore]:
    if request.param == "memory":
        yield MemoryStore(lambda: MIDNIGHT)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("FLUSHALL")
    redis = RedisStore(connect(server.url))
    await redis.start()
    yield redis
    await redis.close()


def team(ledger: LedgerRule | None, limit: int = 1_000_000) -> DescriptorRule:
    return budget("team", Limit(limit, DAY, "daily"), track=True, ledger=ledger)


def is_busy(moment: float) -> bool:
    """Return whether it is a busy hour: from 0 to 9, as in Tokyo."""
    return moment % DAY_LONG < 9 * HOUR_LONG


async def spend(replica: Replica, days: int, until: float = MIDNIGHT) -> None:
    """Charge 100 tokens in each busy hour of the days before."""
    for day in range(days):
        for hour in range(24):
            replica.now = until - (days - day) * DAY_LONG + hour * HOUR_LONG + 60
            if is_busy(replica.now):
                await replica.ask(hits=110)
                await replica.ask(hits=-10)
    replica.now = until


async def learned(profiles: Profiles, ledger: LedgerRule) -> Profile | None:
    profiles.of(BUCKET, ledger)
    await profiles.learn()
    return profiles.of(BUCKET, ledger)


@pytest.mark.parametrize(
    "ledger", [LedgerRule(), LedgerRule(zone="Asia/Kathmandu")], ids=["UTC", "Kathmandu"]
)
async def test_a_profile_is_learned_from_charges(store: CounterStore, ledger: LedgerRule) -> None:
    """Refunds are subtracted. Its hours are those of UTC also if those of the time zone begin a quarter
    later.
    """
    replica = Replica(team(ledger), store=store)
    await spend(replica, KEPT_DAYS)
    profiles = at_midnight(store, lambda: MIDNIGHT)
    assert None is profiles.of(BUCKET, ledger)
    profile = await learned(profiles, ledger)
    assert profile is not None
    assert 4 == profile.weeks
    assert profile.use(MIDNIGHT, MIDNIGHT + DAY_LONG) == pytest.approx(9 * 100, rel=0.06)
    busy, quiet = MIDNIGHT + 5 * HOUR_LONG, MIDNIGHT + 20 * HOUR_LONG
    assert profile.use(busy, busy + HOUR_LONG) == pytest.approx(100)
    assert profile.use(quiet, quiet + HOUR_LONG) < 2


async def test_a_ledger_by_the_day_has_a_profile_of_days(store: CounterStore) -> None:
    ledger = LedgerRule(by="day", zone="Europe/Berlin")
    replica = Replica(team(ledger), store=store)
    await spend(replica, KEPT_DAYS)
    profile = await learned(at_midnight(store, lambda: MIDNIGHT), ledger)
    assert profile is not None
    assert profile.use(MIDNIGHT, MIDNIGHT + HOUR_LONG) == pytest.approx(900 / 24, rel=0.05)


async def test_a_new_bucket_has_no_profile_and_is_read_once_a_day() -> None:
    clock, read = Moved(), Counted()
    profiles = at_midnight(read, clock)
    for _ in range(3):
        assert None is await learned(profiles, LedgerRule())
    assert KEPT_DAYS == len(read.keys)
    clock.now += DAY_LONG
    await learned(profiles, LedgerRule())
    assert 2 * KEPT_DAYS == len(read.keys)


async def test_redis_gets_few_and_small_commands(redis_server: RedisServer) -> None:
    """One HGETALL for each day, of a hash with the hours of that day."""
    redis_server.cli("FLUSHALL")
    redis = RedisStore(connect(redis_server.url))
    await redis.start()
    try:
        await spend(Replica(team(LedgerRule()), store=redis), 3)
        redis_server.cli("CONFIG", "RESETSTAT")
        assert None is not await learned(at_midnight(redis, lambda: MIDNIGHT), LedgerRule())
    finally:
        await redis.close()
    calls = {
        line.partition(":")[0]: int(line.partition("calls=")[2].partition(",")[0])
        for line in redis_server.cli("INFO", "commandstats").splitlines()
        if line.startswith("cmdstat_")
    }
    assert KEPT_DAYS == calls["cmdstat_hgetall"]
    assert {"cmdstat_hgetall", "cmdstat_info", "cmdstat_config|resetstat"} >= {
        name for name in calls if name not in ("cmdstat_ping", "cmdstat_client|setinfo", "cmdstat_hello")
    }


async def test_a_redis_that_refuses_the_reads_leaves_forecasts_to_the_rate(redis_server: RedisServer) -> None:
    """An ACL without HGETALL is a StoreError, as a Redis that is away."""
    redis_server.cli("ACL", "SETUSER", "writer", "on", ">secret", "~*", "&*", "+@all", "-hgetall")
    redis = RedisStore(connect(redis_server.url.replace("redis://", "redis://writer:secret@")))
    await redis.start()
    profiles = at_midnight(redis, lambda: MIDNIGHT)
    try:
        profiles.of(BUCKET, LedgerRule())
        with pytest.raises(StoreError, match="hgetall"):
            await profiles.learn()
    finally:
        await redis.close()
        redis_server.cli("ACL", "DELUSER", "writer")
    assert None is profiles.of(BUCKET, LedgerRule())


async def test_the_number_of_profiles_is_bounded() -> None:
    """Those without history make room for others, and those that nobody asks for do after two days."""
    clock, store = Moved(), MemoryStore(lambda: MIDNIGHT)
    teams = [f"team={name}" for name in ("a", "b", "c", "d")]
    replica = Replica(team(LedgerRule()), store=store)
    for each in teams:
        for day in (2, 1):
            replica.now = MIDNIGHT - day * DAY_LONG
            await replica.ask(each, hits=100)
    profiles = at_midnight(store, clock, most=3)

    async def asked(*names: str) -> list[bool]:
        """Return which of these have a profile, after forecasts have asked for all of them a few times."""
        buckets = [f"{{d|{name}}}" for name in names]
        for _ in range(3):
            for bucket in buckets:
                profiles.of(bucket, LedgerRule())
            await profiles.learn()
        return [profiles.of(bucket, LedgerRule()) is not None for bucket in buckets]

    assert [False] * 5 == await asked(*[f"team=new-{number}" for number in range(5)])
    assert len(profiles) <= 3
    assert [True, True, True, False] == await asked(*teams)
    assert [False] * 5 == await asked(*[f"team=new-{number}" for number in range(5)])
    assert [True, True, True] == await asked(*teams[:3])
    clock.now += DAY_LONG
    assert [True, True] == await asked(*teams[:2])
    clock.now += DAY_LONG
    assert [True] == await asked(teams[3])


async def test_a_store_that_fails_leaves_the_list_as_it_is() -> None:
    """The task logs it, and tries again later."""
    read = Counted()
    profiles = at_midnight(read, lambda: MIDNIGHT)
    read.fails = True
    profiles.of(BUCKET, LedgerRule())
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(profiles.run())
        await until(lambda: logs)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert ["the ledgers of earlier weeks cannot be read"] == [each["event"] for each in logs]
    read.fails = False
    await profiles.learn()
    assert 1 == len(profiles)


class Counted(MemoryStore):
    """A memory store that remembers which books were read, and can fail."""

    def __init__(self) -> None:
        super().__init__(lambda: MIDNIGHT)
        self.keys: list[str] = []
        self.fails = False
        self.failed = 0
        self.without = ""
        """A part of the keys that cannot be read."""

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        if self.fails or (self.without and self.without in keys[0]):
            self.failed += 1
            raise StoreError("gone")
        self.keys += keys
        return await super().read_books(keys, names)


async def through_the_day(replica: Replica, until: int) -> list[Foreseen]:
    """Charge the same as in the weeks before, ten times an hour. Return the forecasts."""
    found: list[Foreseen] = []
    replica.tracker.foreseen = lambda rule, use, foreseen, now: found.append(foreseen)
    for step in range(until * 10):
        replica.now = MIDNIGHT + step * 360 + 1
        if is_busy(replica.now):
            await replica.ask(hits=10)
    return found


@pytest.mark.parametrize("ledger, false", [(LedgerRule(), 0), (None, 1)], ids=["with a ledger", "without"])
async def test_busy_hours_of_a_day_that_lasts_lead_to_no_event(ledger: LedgerRule | None, false: int) -> None:
    """900 of 1,000 are used by nine in the morning, and nothing after that. A rate does not know it."""
    replica = Replica(team(ledger, 1_000))
    await spend(replica, KEPT_DAYS)
    profiles = at_midnight(replica.store, lambda: replica.now)
    replica.tracker.find_profile = profiles.of
    await learned(profiles, ledger or LedgerRule())
    assert false == len(await through_the_day(replica, 9))
    gauges = replica.samples("budget_seconds_to_exhaustion", "budget_burn_per_second")
    assert (["burn_per_second"] + ["seconds_to_exhaustion"] * false) == [
        each.name.removeprefix("ratelimit_service_budget_") for each in gauges
    ]


async def test_a_day_that_does_not_last_is_foreseen_by_the_profile() -> None:
    """900 would be used, and there are 700: the event comes before a third of these are used."""
    replica = Replica(team(LedgerRule(), 700))
    await spend(replica, KEPT_DAYS)
    profiles = at_midnight(replica.store, lambda: replica.now)
    replica.tracker.find_profile = profiles.of
    await learned(profiles, LedgerRule())
    (found,) = await through_the_day(replica, 3)
    assert "profile" == found.by
    assert found.at == pytest.approx(MIDNIGHT + 7 * HOUR_LONG, abs=900)


@pytest.mark.parametrize("unit, by", [(Unit.DAY, "profile"), (Unit.HOUR, "rate")])
async def test_a_budget_that_is_looked_at_is_forecast_by_its_profile(unit: Unit, by: str) -> None:
    """A window of an hour has no hours."""
    rule = budget("team", Limit(800, Window(unit), "limit"), ledger=LedgerRule())
    replica = Replica(rule)
    await spend(replica, KEPT_DAYS)
    replica.now = MIDNIGHT + 1_800
    await replica.ask(hits=50)
    profiles = at_midnight(replica.store, lambda: replica.now)
    lister = Lister(
        replica.store, Amendments(), lambda: replica.service.tree, now=lambda: replica.now, profiles=profiles
    )
    dba = (Entry(b"team", b"dba"),)
    first = await lister.budget("d", dba)
    await profiles.learn()
    second = await lister.budget("d", dba)
    await lister.close()
    assert first is not None
    assert second is not None
    assert ["rate", by] == [each.windows[0].forecast_by for each in (first, second)]
    if by == "profile":
        assert first.windows[0].runs_out == MIDNIGHT + 8 * HOUR_LONG
        assert second.windows[0].runs_out == pytest.approx(MIDNIGHT + 8 * HOUR_LONG, abs=900)


async def test_each_process_reads_again_at_another_moment_of_the_night() -> None:
    """All daily windows begin at midnight, and nobody needs the profile of the new day so soon."""
    clock = Moved(MIDNIGHT - 60)
    early, late = Counted(), Counted()
    processes = [
        (each, Profiles(each, clock, random_share=lambda share=share: share))  # type: ignore[misc]
        for each, share in ((early, 0.25), (late, 0.75))
    ]
    read = []
    for clock.now in (MIDNIGHT - 60, MIDNIGHT, MIDNIGHT + 2 * HOUR_LONG, MIDNIGHT + 5 * HOUR_LONG):
        for _, profiles in processes:
            await learned(profiles, LedgerRule())
        read.append([len(each.keys) // KEPT_DAYS for each, _ in processes])
    assert [[1, 1], [1, 1], [2, 1], [2, 2]] == read


async def test_new_buckets_without_room_are_dropped_without_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """All buckets that are known have a history. A list of others makes room once, not once for each of
    them.
    """
    profiles, read = full_of_history(), Counted()
    profiles._store = read
    made_room = 0
    make_room = Profiles._make_room

    def counted(self: Profiles) -> None:
        nonlocal made_room
        made_room += 1
        make_room(self)

    monkeypatch.setattr(Profiles, "_make_room", counted)
    for number in range(profiles._most):
        profiles.of(f"{{d|team=new-{number}}}", LedgerRule())
    await profiles.learn()
    assert (1, [], 0) == (made_room, read.keys, len(profiles._wanted))
    assert profiles._most == len(profiles)


def full_of_history() -> Profiles:
    """Return profiles without room for more."""
    profiles = at_midnight(Counted(), lambda: MIDNIGHT, most=20)
    profile = Profile([1.0] * 168)
    for number in range(profiles._most):
        profiles._known[f"{{d|team=known-{number}}}"] = _Known(int(MIDNIGHT) // DAY_LONG, profile)
    return profiles


async def test_a_bucket_that_cannot_be_read_does_not_keep_others_from_their_profiles() -> None:
    """The server of its slot may be away. It is first in the list, and is tried again after the others."""
    read = Counted()
    profiles = at_midnight(read, lambda: MIDNIGHT)
    read.without = "bad"
    for name in ("bad", "good", "better"):
        profiles.of(f"{{d|team={name}}}", LedgerRule())
    with pytest.raises(StoreError, match="gone"):
        await profiles.learn()
    assert (2, ["{d|team=bad}"]) == (len(profiles), list(profiles._wanted))
    read.without = ""
    await profiles.learn()
    assert (3, []) == (len(profiles), list(profiles._wanted))


async def test_a_store_that_is_away_gets_few_reads_and_those_that_failed_are_last_in_the_next_round() -> None:
    read = Counted()
    profiles = at_midnight(read, lambda: MIDNIGHT)
    read.fails = True
    for number in range(50):
        profiles.of(f"{{d|team={number}}}", LedgerRule())
    with pytest.raises(StoreError, match="gone"):
        await profiles.learn()
    assert 3 == read.failed
    assert [f"{{d|team={number}}}" for number in [*range(3, 50), 0, 1, 2]] == list(profiles._wanted)


@pytest.mark.parametrize("by", ["hour", "day"])
@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Kathmandu", "Pacific/Auckland"])
async def test_a_steady_use_has_a_steady_profile_by_the_ledger_of_each_zone(by: str, zone: str) -> None:
    """The last hours before midnight are used as all others, also where the last day of the zone is not
    over.
    """
    ledger = LedgerRule(by=by, zone=zone)
    profile = await learned(at_midnight(Steady(), lambda: MIDNIGHT), ledger)
    assert profile is not None
    assert 4 == profile.weeks
    moments = [MIDNIGHT + hour * HOUR_LONG for hour in range(-168, 1)]
    uses = [profile.use(*each) for each in pairwise(moments)]
    assert uses == pytest.approx([100] * 168, rel=0.02)


class Steady(MemoryStore):
    """A memory store whose entries of ledgers are those of 100 tokens an hour."""

    def __init__(self) -> None:
        super().__init__(lambda: MIDNIGHT)

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        return {
            key: {name: 2_400 if ":day:" in key else 100 for name in names if name.endswith(":charged")}
            for key in keys
        }
