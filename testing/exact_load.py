"""Load with exact accounts: every charge must be in the store once in the end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.ledger.entries import CHARGED, REFUNDED, REFUSED, read_entry
from ratelimit_service.core.ledger.rule import LedgerRule
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Calendar,
    Code,
    Decision,
    Descriptor,
    DescriptorRule,
    DomainRules,
    Entry,
    Limit,
    Request,
    Rule,
    StatKey,
    Unit,
    Window,
)
from ratelimit_service.deadlines import Patience
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.waiting import until

YEAR = Window(Unit.YEAR, 1, Calendar())
LIMIT = 10**12


def _tree(ledger: LedgerRule | None) -> RuleTree:
    rule = Rule(
        StatKey("ledger", ("team",)),
        (Limit(LIMIT, YEAR), Limit(LIMIT, Window(Unit.MONTH, 1, Calendar()))),
        budget=True,
        ledger=ledger,
    )
    return RuleTree([DomainRules("ledger", (DescriptorRule(b"team", rule=rule),))])


FULL = "t-full"
"""The team whose budget is used up, in a run with refunds and refusals."""

AMPLE = 10**6
"""What each team is charged before such a run, so that no refund exceeds the count."""

TREE = _tree(None)
WITH_LEDGER = _tree(LedgerRule())


@dataclass
class Outcome:
    """The result of a run with a fault."""

    answered: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    """The charges, by team."""
    refunded: Counter[str] = field(default_factory=Counter)
    """The refunds, by team."""
    refused: Counter[str] = field(default_factory=Counter)
    """The checks that were refused, by team."""
    latencies: list[float] = field(default_factory=list)
    recovered_in: float = 0.0
    """Seconds from the end of the fault until everything was written and the circuit was closed."""
    lost: int = 0
    doubled: int = 0

    def p99(self) -> float:
        """The 99th percentile of latency in seconds."""
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)] if self.latencies else 0.0


REPORT: list[tuple[str, Outcome]] = []
"""The results of this session, by fault; conftest.py writes them to a file."""


def table(report: list[tuple[str, Outcome]]) -> str:
    """Return the report as a Markdown table."""
    lines = [
        "| fault | requests | answered with an error | charges lost | counted twice | p99 of an answer | "
        "settled after |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, outcome in report:
        requests = sum(outcome.answered.values())
        errors = outcome.answered["UNAVAILABLE"]
        lines.append(
            f"| {what} | {requests:,} | {errors:,} | {outcome.lost} | {outcome.doubled} "
            f"| {outcome.p99() * 1000:.0f} ms | {outcome.recovered_in:.2f} s |"
        )
    return "\n".join(lines)


class Bench:
    """The service with all store layers in front of Redis, without a transport.

    Redis is at a URL, or behind a given store. `books`: see balance. `teams` is the number of charged teams.
    """

    def __init__(
        self,
        redis: str | RedisStore | ClusterStore,
        *,
        books: str = "",
        deadline: float = 0.01,
        timeout: float = 0.5,
        journal: int = 100_000,
        teams: int = 5,
    ) -> None:
        self._books = books
        self.ledgers: Sequence[str] = ()
        """Where the ledgers are, if `books` cannot be walked: behind a proxy that spreads keys."""
        self._teams = teams
        self.redis = (
            RedisStore(connect(redis, timeout=timeout, pool_size=20)) if isinstance(redis, str) else redis
        )
        self.settling = SettlingStore(self.redis, journal)
        self.store = CoalescingStore(self.settling)
        patience = Patience(otherwise=deadline)
        self.service = RateLimitService(self.store, Metrics(), time.time, patience=patience)
        self.service.use(WITH_LEDGER)

    async def start(self) -> None:
        """Connect to Redis."""
        await self.store.start()

    async def close(self) -> None:
        """Finish, and close."""
        await self.store.close()

    async def run(
        self,
        fault: Callable[[], Awaitable[None]],
        *,
        callers: int = 20,
        pause: float = 0.002,
        least: int = 0,
        mixed: bool = False,
    ) -> Outcome:
        """Charge without pauses during `fault`; then wait until everything is settled.

        A `mixed` load has refunds, and checks of a budget that is used up, and the fault begins after both
        were answered. It is for faults that lose nothing: a refund of what was lost would be smaller.
        """
        outcome = Outcome()
        stop = asyncio.Event()
        if mixed:
            await self._prepare(outcome)

        async def ask(request: Request) -> None:
            started = time.perf_counter()
            try:
                decision = await self.service.should_rate_limit(request)
                assert isinstance(decision, Decision)
                outcome.answered[decision.code.name] += 1
                outcome.refused[FULL] += decision.code is Code.OVER_LIMIT
            except StoreError:
                outcome.answered["UNAVAILABLE"] += 1
            outcome.latencies.append(time.perf_counter() - started)

        async def call(number: int) -> None:
            team = f"t{number % self._teams}"
            turn = 0
            while not stop.is_set() or turn < least:
                turn += 1
                if mixed and turn % 4 == 2:
                    outcome.refunded[team] += 1
                    await ask(charge(team, -1))
                elif mixed and turn % 4 == 3:
                    await ask(charge(FULL, 0))
                else:
                    hits = turn % 7 + 1
                    outcome.charged[team] += hits
                    await ask(charge(team, hits))
                await asyncio.sleep(pause)

        callers_at_work = [asyncio.create_task(call(number)) for number in range(callers)]
        await asyncio.sleep(0)
        if mixed:
            await until(lambda: outcome.refunded and outcome.refused.total())
        await fault()
        stop.set()
        await asyncio.gather(*callers_at_work)
        ended = time.perf_counter()
        await self.settled()
        outcome.recovered_in = time.perf_counter() - ended
        return outcome

    async def _prepare(self, outcome: Outcome) -> None:
        """Charge each team an ample amount, and use up the budget of another one."""
        for number in range(self._teams):
            outcome.charged[f"t{number}"] += AMPLE
        outcome.charged[FULL] += LIMIT
        for team, hits in outcome.charged.items():
            with suppress(StoreError):  # late, but settled
                await self.service.should_rate_limit(charge(team, hits))
        await self.settled()

    async def settled(self, patience: float = 30) -> None:
        """Wait until nothing is in flight, the journal is empty and the circuit is closed."""
        async with asyncio.timeout(patience):
            while True:
                await self.settling._in_flight.drained()
                if self.settling._recovering is None:
                    return
                await asyncio.wait([self.settling._recovering])

    async def balance(self, outcome: Outcome) -> Outcome:
        """Compare the counters and the ledger with the charges: missing charges are lost, excess ones were
        counted twice. So are refunds and refusals.

        The counters are read at `books`, which is Redis itself where a proxy stands before it.
        """
        books = RedisStore(connect(self._books)) if self._books else self.redis
        for team, charged in outcome.charged.items():
            counters = await books.read_bucket(f"{{ledger|team={team}}}")
            held = [counters.get(key) or 0 for key in counters]
            assert 2 == len(held) or not held, f"the hour of the test is the edge of a window: {counters}"
            entries = await self._recorded(books, team)
            refunded = outcome.refunded[team]
            for expected, count in [
                *[(charged - refunded, count) for count in held or [0, 0]],
                (charged, entries[CHARGED]),
                (refunded, entries[REFUNDED]),
                (outcome.refused[team], entries[REFUSED]),
            ]:
                outcome.lost += max(0, expected - count)
                outcome.doubled += max(0, count - expected)
        if books is not self.redis:
            await books.close()
        return outcome

    async def _recorded(self, books: CounterStore, team: str) -> Counter[str]:
        """Return the sums of a team in the ledgers."""
        if not self.ledgers:
            return await recorded(books, team)
        total = Counter[str]()
        for url in self.ledgers:
            server = RedisStore(connect(url))
            total += await recorded(server, team)
            await server.close()
        return total


async def recorded(books: CounterStore, team: str) -> Counter[str]:
    """Return the sums of a team in the ledger, by the kind of the entries."""
    found, read = Counter[str](), read_entry("")
    for key, value in (await entries_in(books, f"{{ledger|team={team}}}")).items():
        entry = read(key)
        assert entry is not None, key
        found[entry.kind] += value
    return found


async def entries_in(store: CounterStore, begin: str) -> dict[str, int]:
    """Return the entries of all ledgers whose keys have this prefix, by the key of the book and the name of
    the entry.
    """
    entries: dict[str, int] = {}
    position, first = "", True
    while position or first:
        first = False
        keys, position = await store.walk(begin, ":ledger:", position)
        for key, book in (await store.read_books(keys)).items():
            entries |= {f"{key}{name}": value for name, value in book.items()}
    return entries


def charge(team: str, hits: int) -> Request:
    """Return a request that charges a team; hits below 0 are a refund, and 0 is a check."""
    return Request("ledger", (Descriptor((Entry(b"team", team.encode()),), abs(hits), negative=hits < 0),))
