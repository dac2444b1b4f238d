"""Buckets that are read although no request uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.holds.rule import HoldRule
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import DescriptorRule, DomainRules, Hit, Limit, Rule, StatKey, Unit, Window
from ratelimit_service.loading.slices import at_once
from ratelimit_service.observe.named_buckets import Check, NamedBuckets
from ratelimit_service.ports import CounterStore, OnOutcomes
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from tests.limiter import MIDNIGHT

from .replica import DAY, HOUR, Replica

HOURLY, DAILY = Limit(100, HOUR, "hourly"), Limit(400, DAY, "daily")


def team(
    value: str, *limits: Limit, below: Sequence[DescriptorRule] = (), track: bool = True
) -> DescriptorRule:
    """Return a budget of one team, or of each team for ""."""
    path = StatKey("d", (f"team_{value}" if value else "team",))
    rule = Rule(path, limits, budget=True, track=track) if limits else None
    return DescriptorRule(b"team", value.encode(), rule, tuple(below))


class Looking:
    """A replica, and the task that reads its buckets from `store`."""

    def __init__(self, *rules: DescriptorRule, store: CounterStore | None = None, most: int = 1_000) -> None:
        self.replica = Replica(*rules, store=store)
        self.standing = NamedBuckets(
            self.replica.tracker, lambda: self.replica.now, most, self.replica.store.read_holds
        )
        self._service = RateLimitService(self.replica.store, self.standing, lambda: self.replica.now)
        self.follow(*rules)

    def follow(self, *rules: DescriptorRule) -> None:
        """Use other rules."""
        domains = [DomainRules("d", rules)]
        self._service.use(RuleTree(domains))
        at_once(self.standing.following(domains))

    @property
    def ask(self) -> Callable[[Sequence[Check]], None]:
        return self._service.submit

    async def check(self) -> None:
        """Read the buckets once."""
        await self.standing.check(self.ask)

    @property
    def used(self) -> dict[str, float]:
        """Return the samples of a scrape, by bucket and window."""
        return {
            f"{sample.labels['bucket']} {sample.labels['window']}": sample.value
            for sample in self.replica.samples("budget_used")
        }


async def test_a_bucket_that_a_rule_names_is_shown_before_anybody_asks() -> None:
    """All its windows, at 0; rules for any value, and rules without `track`, are not shown."""
    looking = Looking(
        team("dba", HOURLY, DAILY), team("", HOURLY), team("quiet", HOURLY, track=False), team("a*", HOURLY)
    )
    before = looking.used
    await looking.check()
    assert ({}, {"team=dba hour": 0, "team=dba day": 0}) == (before, looking.used)


async def test_a_bucket_of_several_keys_is_shown_where_each_has_a_value() -> None:
    """Below a key without a value, the buckets are not known."""
    model = DescriptorRule(
        b"model", b"x", Rule(StatKey("d", ("model_x",)), (HOURLY,), budget=True, track=True)
    )
    looking = Looking(team("dba", below=[model]), team("", below=[model]))
    await looking.check()
    assert {"team=dba,model=x hour": 0} == looking.used


async def test_charges_on_other_replicas_are_seen() -> None:
    """This includes refunds, which the maximum over replicas would hide."""
    store = MemoryStore(lambda: MIDNIGHT)
    other = Replica(team("dba", HOURLY), store=store)
    looking = Looking(team("dba", HOURLY), store=store)
    seen = []
    for hits in (90, -50):
        await other.ask(hits=hits)
        await looking.check()
        seen.append(looking.used)
    assert [{"team=dba hour": 90}, {"team=dba hour": 40}] == seen


async def test_a_view_counts_nothing_and_is_not_counted() -> None:
    """There is no decision, no hit and no log line, because there was no request."""
    looking = Looking(team("dba", HOURLY))
    await looking.replica.ask(hits=100)
    before = looking.replica.samples("rule", "rate_limit", "decisions")
    await looking.check()
    assert before == looking.replica.samples("rule", "rate_limit", "decisions")
    assert {"team=dba hour": 100} == looking.used


async def test_a_window_that_has_begun_is_shown_at_0() -> None:
    """It is shown when it is read, which is at its beginning."""
    looking = Looking(team("dba", HOURLY))
    await looking.replica.ask(hits=90)
    looking.replica.now += 3600
    gone = looking.used
    await looking.check()
    assert ({}, {"team=dba hour": 0}) == (gone, looking.used)


@pytest.mark.parametrize("passed, expected", [(0, 5), (3594, 5), (3595.5, 4.5), (3598, 2), (3599.5, 1)])
async def test_the_next_read_is_in_five_seconds_or_when_a_window_begins(
    passed: float, expected: float
) -> None:
    """But never earlier than after a second."""
    looking = Looking(team("dba", HOURLY, DAILY))
    looking.replica.now += passed
    assert expected == looking.standing.pause()


async def test_windows_of_seconds_are_read_once_a_second() -> None:
    """They end before a scrape could show them."""
    looking = Looking(team("dba", Limit(10, Window(Unit.SECOND))))
    looking.replica.now += 0.75
    assert 1 == looking.standing.pause()


async def test_a_limited_number_of_buckets_is_read() -> None:
    """The first of the file, so that they are always the same."""
    looking = Looking(*[team(name, HOURLY) for name in "abc"], most=2)
    await looking.check()
    assert {"team=a hour": 0, "team=b hour": 0} == looking.used


async def test_callers_have_their_turn_between_questions() -> None:
    """Reading a thousand buckets at once would take longer than gateways wait."""
    batches: list[int] = []
    looking = Looking(*[team(f"t{number}", HOURLY) for number in range(60)])

    def ask(checks: Sequence[Check]) -> None:
        batches.append(len(checks))
        looking.ask(checks)

    await looking.standing.check(ask)
    assert ([25, 25, 10], 60) == (batches, len(looking.used))


class Waiting(MemoryStore):
    """A store that answers, or fails, when the test wants."""

    def __init__(self) -> None:
        super().__init__(lambda: MIDNIGHT)
        self.asked: list[tuple[Sequence[Sequence[Hit]], OnOutcomes]] = []

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        self.asked.append((groups, on_outcomes))

    def answer(self, error: StoreError | None = None) -> None:
        groups, on_outcomes = self.asked.pop()
        if error is not None:
            on_outcomes([error] * len(groups))
        else:
            super().hit(groups, on_outcomes)


async def test_a_slow_store_gets_one_read_at_a_time() -> None:
    """The next read waits for the answer; otherwise they would accumulate."""
    store = Waiting()
    looking = Looking(team("dba", HOURLY), store=store)
    for _ in range(3):
        await looking.check()
    assert 1 == len(store.asked)
    store.answer()
    await looking.check()
    assert (1, {"team=dba hour": 0}) == (len(store.asked), looking.used)


async def test_a_failing_store_keeps_the_last_values() -> None:
    """It is read again later."""
    store = Waiting()
    looking = Looking(team("dba", HOURLY), store=store)
    await looking.check()
    store.answer()
    await looking.check()
    store.answer(StoreError("gone"))
    await looking.check()
    assert (1, {"team=dba hour": 0}) == (len(store.asked), looking.used)


async def test_loaded_rules_are_read_at_once() -> None:
    """The buckets of a new team do not wait five seconds."""
    looking = Looking(team("dba", HOURLY))
    running = asyncio.create_task(looking.standing.run(looking.ask))
    await asyncio.sleep(0)
    first = looking.used
    looking.follow(team("support", DAILY))
    async with asyncio.timeout(2):  # less than until the next look
        while "team=support day" not in looking.used:
            await asyncio.sleep(0)
    running.cancel()
    assert {"team=dba hour": 0} == first


@pytest.mark.parametrize("limits", [(HOURLY,), (HOURLY, DAILY)])
async def test_held_tokens_have_gauges_beside_used_ones(limits: tuple[Limit, ...]) -> None:
    """Each window of the bucket has a gauge. Expired holds do not count, and a rule without holds has no such
    gauge.
    """
    path = StatKey("d", ("team",))
    rule = Rule(path, limits, budget=True, track=True, hold=HoldRule(fixed=30))
    looking = Looking(DescriptorRule(b"team", rule=rule), team("plain", HOURLY))
    ask, replica = looking.replica.ask, looking.replica
    for hits in (10, 0, 0):
        await ask(hits=hits)
    await ask("team=plain", 10)
    seen = []
    for seconds in (0, 30, 30):
        replica.now += seconds
        await looking.standing.read_held_tokens()
        seen.append({sample.value for sample in replica.samples("budget_held")})
    assert len(limits) == len(replica.samples("budget_held"))
    assert [{60}, {60}, {0}] == seen
    assert {"team=dba"} == {sample.labels["bucket"] for sample in replica.samples("budget_held")}


async def test_an_unreadable_store_keeps_the_gauges_of_held_tokens() -> None:
    """The next round reads it."""
    rule = Rule(StatKey("d", ("team",)), (HOURLY,), budget=True, track=True, hold=HoldRule(fixed=30))
    looking = Looking(DescriptorRule(b"team", rule=rule))
    store, away = looking.replica.store, [True]

    async def read(keys: Sequence[str], now: int) -> Mapping[str, int]:
        if away.pop():
            raise StoreError("away")
        return await store.read_holds(keys, now)

    looking.standing = NamedBuckets(looking.replica.tracker, lambda: looking.replica.now, 10, read)
    away.insert(0, False)
    await looking.replica.ask(hits=0)
    seen = []
    for _ in range(2):
        looking.replica.now += 1
        await looking.standing.read_held_tokens()
        seen.append([sample.value for sample in looking.replica.samples("budget_held")])
    assert [[0], [30]] == seen
