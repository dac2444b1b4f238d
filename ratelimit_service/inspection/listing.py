"""Lists budgets page by page, and reads one by its descriptor.

    budgets(query, cursor) -> Listing    one page: a sweep (sweep.py) sorts the buckets, and each page reads
                                         its counters
    budget(domain, entries) -> Budget    one bucket, even if it has no counters yet

A page is returned within FIRST_ANSWER, and is marked as partial if the sweep has not finished by then.
Repeated requests, such as those of ten browsers, share one sweep. A new sweep replaces it after SWEPT_AGAIN,
or after a hundred times the work that it took, so that sweeps use at most a hundredth of a core.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..core.amendments.index import Amendments
from ..core.budgets.bucket import Budget, BudgetWindow
from ..core.budgets.burning import BYTES, Meter
from ..core.budgets.forecasting import has_profile, outlook
from ..core.budgets.profile import Profile
from ..core.cache import MIB, BoundedCache
from ..core.model import Entry
from ..loading.slices import Pace
from ..ports import Clock, CounterStore
from .joining import Joiner, KnownBucket, Tree
from .profiles import Profiles
from .query import Cursor, Query, Row, read_cursor
from .sweep import MOST_ROWS, Sweep

FIRST_ANSWER = 0.1
"""Seconds that a page waits for a sweep."""

SWEPT_AGAIN = 2.0
"""Seconds after which a new sweep replaces one that took less than a hundredth of that."""

_SHARE_OF_A_CORE = 0.01

UNUSED = 10.0
"""Seconds after which an old sweep that no list has used is not shown any more: who looks at a list uses it
every two seconds."""

_JOINED = 30.0
"""Seconds after its begin in which a running sweep serves for a list that has to be fresh: a caller that gave
up waiting would otherwise begin again and again."""

_MOST_SWEEPS = 16
_MOST_ROWS = 3 * MOST_ROWS
"""Sweeps that are kept, and their buckets: some 30 MB."""

_MOST_AT_ONCE = 2
"""Sweeps that run at the same time; others wait for their turn."""

_METERS_BYTES = 8 * MIB
"""For the meters of some 2,000 windows that are displayed."""

STILL_READING = "the store is still being read: ask again for the rest"
MORE_PARTS = (
    "there are too many budgets to sort them all: this list sorts one part, and the cursor leads to the "
    "next part"
)


class Listing(NamedTuple):
    """One page of budgets. It is partial if only some of the budgets are sorted, and `partial_reason` says
    why.
    """

    budgets: tuple[Budget, ...]
    next_cursor: str = ""
    partial_reason: str = ""
    scanned: int = 0
    """How many keys of counters the sweep has found."""
    total: int | None = None
    """How many budgets match the query; None if the page is partial."""

    @property
    def partial(self) -> bool:
        """Return whether budgets that match the query, and belong before the last one of the page, may be
        missing.
        """
        return bool(self.partial_reason)


class _KeptSweep(NamedTuple):
    """A sweep, when it began, and its task."""

    sweep: Sweep
    began: float
    task: asyncio.Task[None]


class Lister:
    """Lists the budgets of a store. `tree` returns the rules in force, `prefix` is CACHE_KEY_PREFIX."""

    def __init__(
        self,
        store: CounterStore,
        amendments: Amendments,
        tree: Tree,
        prefix: str = "",
        near_ratio: float = 0.8,
        now: Clock = time.time,
        clock: Clock = time.monotonic,
        first_answer: float = FIRST_ANSWER,
        profiles: Profiles | None = None,
    ) -> None:
        self.profiles = profiles
        self._first_answer = first_answer
        self._store = store
        self._amendments = amendments
        self._now = now
        self._clock = clock
        self._meters: BoundedCache[str, Meter] = BoundedCache(_METERS_BYTES, lambda key, _: len(key) + BYTES)
        self._turn = asyncio.Semaphore(_MOST_AT_ONCE)
        self.prefix = prefix
        self.joiner = Joiner(tree, amendments, prefix, near_ratio)
        self._sweeps: dict[tuple[object, ...], _KeptSweep] = {}
        self._next: dict[tuple[object, ...], _KeptSweep] = {}
        """The sweeps that will replace those with the same filter, once they are done."""

    async def budgets(
        self, query: Query, cursor: str = "", wait: float | None = None, oldest: float | None = None
    ) -> Listing:
        """Return one page of budgets. Waits `wait` seconds for a sweep, by default those of a page.

        The sweep began at most `oldest` seconds ago, or is still running; by default, it may be as old as
        that of a page.

        Raises InvalidRequest or StoreError.
        """
        query.check()
        at = read_cursor(cursor)
        sweep = self._sweep(query, at.position, oldest)
        if not sweep.done:
            with suppress(TimeoutError):
                await asyncio.wait_for(sweep.finished.wait(), self._first_answer if wait is None else wait)
        if sweep.error is not None and not sweep.rows:
            self._sweeps.pop((*query.filter, at.position), None)
            raise sweep.error
        rows = await sweep.ordered(query)
        first = 0 if at.after is None else bisect_right(rows, at.after, key=query.order)
        page = rows[first : first + query.limit]
        budgets = await self._read(page)
        if query.state:
            budgets = [budget for budget in budgets if budget.state.value == query.state]
        following, reason = "", ""
        if first + len(page) < len(rows) or not sweep.done:
            after = query.order(page[-1]) if page else at.after
            following = str(Cursor(at.position, after))
        elif sweep.position and sweep.error is None:
            following = str(Cursor(sweep.position))
        if sweep.error is not None:
            reason = f"some of the store cannot be read: {sweep.error}"
        elif not sweep.done:
            reason = STILL_READING
        elif sweep.position or at.position:
            reason = MORE_PARTS
        total = None if reason else len(rows)
        return Listing(tuple(budgets), following, reason, sweep.scanned, total)

    async def budget(self, domain: str, entries: tuple[Entry, ...]) -> Budget | None:
        """Return the bucket of a descriptor; None where no rule limits it. Raises StoreError."""
        joiner = self.joiner
        known = joiner.matched(domain, entries, int(self._now()))
        if known is None:
            return None
        used = await self._store.read_counters(known.counters)
        return self._measured(joiner.budget(known, used, await self._holds([known])))

    async def _read(self, rows: Sequence[Row]) -> list[Budget]:
        """Return the budgets of rows as they are now."""
        joiner, now = self.joiner, int(self._now())
        found: list[tuple[Row, KnownBucket | None]] = []
        pace = Pace(0)
        for row in rows:
            known = None if row.strays else joiner.known(row.domain, row.entries, now)
            found.append((row, known))
            if pace.over:
                await pace.breathe()
        wanted = [
            key for row, known in found for key in (known.counters if known is not None else row.strays)
        ]
        used = await self._store.read_counters(wanted)
        holds = await self._holds([known for _, known in found if known is not None])
        budgets = []
        for row, known in found:
            if known is not None:
                budgets.append(self._measured(joiner.budget(known, used, holds)))
            elif strays := {key: used[key] for key in row.strays if key in used}:
                budgets.append(joiner.stray(row.domain, row.entries, strays))
            if pace.over:
                await pace.breathe()
        return budgets

    async def _holds(self, some: Sequence[KnownBucket]) -> Mapping[str, int]:
        keys = [known.holds for known in some if known.holds]
        return await self._store.read_holds(keys, int(self._now())) if keys else {}

    def _measured(self, budget: Budget) -> Budget:
        """Return a budget with its burn rate, from this reading and earlier ones."""
        now = self._now()
        windows = []
        for window in budget.windows:
            if window.used is not None and window.effective is not None:
                meter = self._meters.get(window.key)
                if meter is None:
                    meter = Meter(window.start, window.end)
                    self._meters.put(window.key, meter)
                profile = self._profile(budget, window)
                found = outlook(meter, now, window.used, window.effective, window.end, profile)
                meter.note(now, window.used)
                window = window._replace(burn=found.burn, runs_out=found.runs_out, forecast_by=found.by)
            windows.append(window)
        return budget._replace(windows=tuple(windows))

    def _profile(self, budget: Budget, window: BudgetWindow) -> Profile | None:
        ledger = budget.rule.ledger if budget.rule is not None else None
        if self.profiles is None or ledger is None or not has_profile(window.start, window.end):
            return None
        return self.profiles.of(budget.bucket, ledger)

    def _sweep(self, query: Query, position: str, oldest: float | None = None) -> Sweep:
        """Return the sweep for the filter of a query; begin one if there is none, or none so young."""
        wanted = (*query.filter, position)
        kept = self._sweeps.pop(wanted, None)
        following = self._next.get(wanted)
        if following is not None and following.sweep.done:
            kept = self._next.pop(wanted)
        elif kept is None or kept.sweep.error is not None or (following is None and self._is_unused(kept)):
            kept = self._begin(query, position)
        elif following is None and kept.sweep.done and self._is_old(kept):
            self._next[wanted] = self._begin(query, position)
        if oldest is not None and self._clock() - kept.began >= (
            oldest if kept.sweep.done else max(oldest, _JOINED)
        ):
            self._next.pop(wanted, None)
            kept = self._begin(query, position)
        self._sweeps[wanted] = kept  # the last one used is at the end
        self._evict()
        return kept.sweep

    def _evict(self) -> None:
        rows = sum(len(kept.sweep.rows) for kept in self._sweeps.values())
        while len(self._sweeps) > 1 and (len(self._sweeps) > _MOST_SWEEPS or rows > _MOST_ROWS):
            oldest = next(iter(self._sweeps))
            kept = self._sweeps.pop(oldest)
            rows -= len(kept.sweep.rows)
            for one in (kept, self._next.pop(oldest, None)):
                if one is not None:
                    one.task.cancel()

    def _is_old(self, kept: _KeptSweep) -> bool:
        sweep = kept.sweep
        if not sweep.is_of(self.joiner.tree):
            return True
        age = self._clock() - kept.began
        return age >= (SWEPT_AGAIN / 2 if sweep.version != self._amendments.version else _lasts(sweep))

    def _is_unused(self, kept: _KeptSweep) -> bool:
        """Return whether a sweep would have been replaced some time ago if a list had used it."""
        return kept.sweep.done and self._clock() >= kept.began + _lasts(kept.sweep) + UNUSED

    def _begin(self, query: Query, position: str) -> _KeptSweep:
        version = self._amendments.version
        sweep = Sweep(self._store, self.joiner, query, position, version, self._now, self._turn)
        return _KeptSweep(sweep, self._clock(), asyncio.get_running_loop().create_task(sweep.run()))

    async def close(self) -> None:
        """End all sweeps."""
        tasks = [one.task for one in (*self._sweeps.values(), *self._next.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _lasts(sweep: Sweep) -> float:
    """Return for how many seconds a sweep is used after it began."""
    return max(SWEPT_AGAIN, sweep.busy / _SHARE_OF_A_CORE)
