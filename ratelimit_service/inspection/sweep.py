"""A sweep walks a part of the store in the background, and keeps its buckets for filtering and sorting.

A list that is sorted by use needs all buckets, and there may be a million. So one sweep walks some MOST_KEYS
keys and keeps some MOST_ROWS buckets, and the cursor of its last page begins the next sweep. A page shows
what its sweep has found so far, and says so if that is not all. All pages with the same filter share a sweep,
which works in slices between calls.

A bucket has a counter for each of its windows. It belongs to the sweep that finds the counter of its first
window, in the order of the rule, so that no two sweeps list it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Collection, Generator, Iterable, Mapping
from time import perf_counter

from ..core.budgets.bucket import Budget
from ..core.errors import InternalError, RateLimitServiceError, StoreError
from ..core.matching import keys
from ..core.matching.buckets import Counter
from ..core.matching.tree import RuleTree
from ..core.ordering import in_order
from ..loading.slices import Pace, in_slices
from ..ports import Clock, CounterStore
from ..runtime.exceptions import report
from .joining import Joiner, KnownBucket
from .query import Query, Row

MOST_KEYS = 200_000
"""Keys of counters after which a sweep ends."""

MOST_ROWS = 20_000
"""Buckets after which a sweep ends: some 10 MB."""

_MOST_NAMED = 1_000
"""Buckets without counters that a sweep adds: those that rules or amendments name."""

_AT_ONCE = 200
"""Keys whose counters are read together."""

_BREATH = 0.0005
"""Seconds between two slices: a sweep takes half of the time at most, and a call waits for one slice."""


class Sweep:
    """The buckets in one part of the store that match a filter. `run` finds them once it has its `turn`."""

    def __init__(
        self,
        store: CounterStore,
        joiner: Joiner,
        query: Query,
        position: str,
        version: int,
        now: Clock,
        turn: asyncio.Semaphore,
    ) -> None:
        self._turn = turn
        self._store = store
        self._query = query
        self._now = now
        self.joiner = joiner
        tree = joiner.tree
        self._rules = weakref.ref(tree) if tree is not None else None
        self.version = version
        """The version of the amendments that it began with."""
        self.begin = self.position = position
        """Where it began, and where the next one begins; empty for the end of the store."""
        self.rows: dict[str, Row] = {}
        self.scanned = 0
        """How many keys of counters it has found."""
        self.error: RateLimitServiceError | None = None
        self.finished = asyncio.Event()
        self.busy = 0.0
        """Seconds of work that it has taken."""
        self._orders: dict[str, tuple[int, list[Row]]] = {}

    @property
    def done(self) -> bool:
        """Return whether it has finished."""
        return self.finished.is_set()

    def is_of(self, tree: RuleTree | None) -> bool:
        """Return whether it began with these rules."""
        return (self._rules() if self._rules is not None else None) is tree

    async def run(self) -> None:
        """Find the buckets. A failure ends the sweep, and is kept in `error`."""
        try:
            async with self._turn:
                await self._run()
        except RateLimitServiceError as error:
            self.error = error
        except Exception as error:
            report("a list of budgets failed", error)
            self.error = InternalError("internal error")
        except asyncio.CancelledError:
            self.error = StoreError("other lists of budgets have replaced it")
            raise
        finally:
            self.finished.set()

    async def ordered(self, query: Query) -> list[Row]:
        """Return the rows in the order of a query."""
        size, rows = self._orders.get(query.sort, (-1, []))
        if size != len(self.rows):
            size = len(self.rows)
            rows = await in_slices(_sorted([*self.rows.values()], query))
            self._orders[query.sort] = size, rows
        return rows

    async def _run(self) -> None:
        domain = self._query.domain
        text = keys.domain_text(domain) if domain else ""
        begin = f"{self.joiner.prefix}{{{text}|" if domain else f"{self.joiner.prefix}{{"
        pace = Pace(_BREATH)
        if not self.begin:
            await self._add_named(text, pace)
        while True:
            found, self.position = await self._store.walk(begin, self._query.part, self.position)
            for first in range(0, len(found), _AT_ONCE):  # a shard in memory has thousands
                await self._add(found[first : first + _AT_ONCE], pace)
            if not self.position or self.scanned >= MOST_KEYS or len(self.rows) >= MOST_ROWS:
                return
            if pace.over:
                await pace.breathe()

    async def _add_named(self, domain_text: str, pace: Pace) -> None:
        """Add the buckets that rules and amendments name, and that have no counters."""
        waiting: dict[str, KnownBucket] = {}
        for text in [domain_text] if domain_text else self.joiner.texts:
            await self._in_slices(self._name(text, waiting), pace)
        named = list(waiting.values())
        for first in range(0, len(named), _AT_ONCE):
            some = named[first : first + _AT_ONCE]
            await self._in_slices(self._count_named(some, await self._read(some)), pace)

    def _name(self, domain_text: str, waiting: dict[str, KnownBucket]) -> Generator[None, None, None]:
        now = int(self._now())
        domain = self.joiner.domain(domain_text)
        for texts in self.joiner.named(domain) if domain is not None else ():
            if len(waiting) >= _MOST_NAMED:
                return
            known = self.joiner.known(domain_text, texts, now) if texts else None
            if known is not None and self._query.has(known.entries):
                waiting[known.now.bucket] = known
            yield

    def _count_named(
        self, some: Iterable[KnownBucket], used: Mapping[str, int | None]
    ) -> Generator[None, None, None]:
        for known in some:
            yield
            if not any(key in used for key in known.counters):
                self._keep(self.joiner.budget(known, {}))

    async def _add(self, found: Collection[str], pace: Pace) -> None:
        waiting: dict[str, KnownBucket] = {}
        await self._in_slices(self._join(found, waiting), pace)
        used = await self._read(waiting.values())
        met = frozenset(found)
        await self._in_slices(self._count(waiting, used, met), pace)

    def _join(self, found: Iterable[str], waiting: dict[str, KnownBucket]) -> Generator[None, None, None]:
        now = int(self._now())
        for key in found:
            yield
            counter = self.joiner.read_key(key)
            if counter is None:
                continue
            self.scanned += 1
            bucket = counter.bucket
            row = self.rows.get(bucket)
            if row is not None and row.strays and key not in row.strays:
                self._keep_stray(counter, (*row.strays, key))
            elif row is None and bucket not in waiting:
                known = self.joiner.known(counter.domain, counter.entries, now)
                if known is None:
                    self._keep_stray(counter, (key,))
                elif self._query.has(known.entries):
                    waiting[bucket] = known

    def _count(
        self, waiting: Mapping[str, KnownBucket], used: Mapping[str, int | None], met: Collection[str]
    ) -> Generator[None, None, None]:
        for known in waiting.values():
            yield
            first = next((key for key in known.counters if key in used), "")
            if first in met:
                self._keep(self.joiner.budget(known, used))

    def _keep(self, budget: Budget) -> None:
        counter = self.joiner.read_key(budget.windows[0].key)
        assert counter is not None
        row = Row(
            budget.share, budget.state.urgency, budget.end, counter.domain, budget.bucket, counter.entries
        )
        if self._query.wants(row):
            self.rows[budget.bucket] = row

    def _keep_stray(self, counter: Counter, strays: tuple[str, ...]) -> None:
        entries = self.joiner.stray(counter.domain, counter.entries, {}).entries
        row = Row(0.0, 0, 0, counter.domain, counter.bucket, counter.entries, strays)
        if self._query.has(entries) and self._query.wants(row):
            self.rows[counter.bucket] = row

    async def _read(self, some: Iterable[KnownBucket]) -> dict[str, int | None]:
        return await self._store.read_counters([key for known in some for key in known.counters])

    async def _in_slices(self, steps: Generator[None, None, None], pace: Pace) -> None:
        """Work in slices, and add up the time that it takes."""
        began = perf_counter()
        for _ in steps:
            if pace.over:
                self.busy += perf_counter() - began
                await pace.breathe()
                began = perf_counter()
        self.busy += perf_counter() - began


def _sorted(rows: Iterable[Row], query: Query) -> Generator[None, None, list[Row]]:
    found = []
    for row in in_order(rows, query.order):
        found.append(row)
        yield
    return found
