"""The profiles of buckets with a ledger: how much they used in each hour of earlier weeks.

    forecasts ──▶ of(bucket)       a lookup in memory; a bucket without a profile of today is put on a list
    run()     ──▶ the ledger       reads the list, a bucket at a time: at most 29 books, once a day

The reads of a day are spread: a few books in one step, a pause after each bucket, and another start in each
process. The commands are HGETALLs of at most 93 fields (docs/showback.md). At most MOST buckets have a
profile, some 5 MB, so others are forecast by their current rate.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from ..core.budgets.profile import DAY, KEPT_DAYS, Profile, learn
from ..core.errors import StoreError
from ..core.ledger.entries import CHARGED, REFUNDED, Period, period
from ..core.ledger.rule import LedgerRule
from ..core.model import Calendar, Unit, Window
from ..core.windows.blocks import span_at
from ..ports import Clock, CounterStore

MOST: Final = 2_000
"""Buckets with a profile, and buckets on the list."""

_EVERY: Final = 1.0
"""Seconds between two looks at the list."""

_BETWEEN: Final = 0.1
"""Seconds between two buckets: each takes some 2.4 ms of CPU time, and callers may create new ones all
day.
"""

_SPREAD: Final = 6 * 3_600.0
"""Seconds after midnight UTC in which processes begin to read ledgers again, each at another moment."""

_PAUSE: Final = 60.0
"""Seconds until the next attempt after a failure of the store."""

_FAILURES: Final = 3
"""Buckets in a row that cannot be read until then; fewer may all be on one node that is away."""

_TOGETHER: Final = 10
"""Books that are read together."""

_SLICE: Final = 48
"""Periods that are computed, or entries that are looked at, before others have their turn on the event
loop.
"""


class _Known(NamedTuple):
    day: int
    profile: Profile | None


class _Books(NamedTuple):
    """Books that are read together, of every bucket with such a ledger."""

    starts: Mapping[str, Mapping[str, int]]
    """By the ends of the keys of books: when their entries begin, by the names of these."""
    names: Sequence[str]
    """The names of all entries, with their kinds."""


class _Weeks(NamedTuple):
    """All books of a ledger that were begun before a day."""

    day: int
    end: int
    """The end of the last entry that is complete."""
    books: Sequence[_Books]


class Profiles:
    """Learns profiles from the ledgers in `store`. `of` may be called from any thread."""

    def __init__(
        self,
        store: CounterStore,
        clock: Clock = time.time,
        most: int = MOST,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._most = most
        self._later = _SPREAD * random_share()
        self._known: dict[str, _Known] = {}
        self._wanted: dict[str, LedgerRule] = {}
        self._books: dict[LedgerRule, _Weeks] = {}
        self._log = structlog.get_logger("ratelimit_service.forecasts")

    def __len__(self) -> int:
        return len(self._known)

    def of(self, bucket: str, ledger: LedgerRule) -> Profile | None:
        """Return the profile of a bucket; None if it has none, or none yet. One of the day before is as
        good.
        """
        known = self._known.get(bucket)
        if (known is None or known.day != self._today) and len(self._wanted) < self._most:
            self._wanted[bucket] = ledger
        return known.profile if known is not None else None

    async def run(self) -> None:
        """Learn the profiles on the list until cancelled."""
        while True:
            try:
                await self.learn()
            except StoreError as error:
                self._log.warning("the ledgers of earlier weeks cannot be read", error=str(error))
                await asyncio.sleep(_PAUSE)
            await asyncio.sleep(_EVERY)

    async def learn(self) -> None:
        """Learn the profiles on the list. Buckets that cannot be read move to its end. Raises StoreError for
        these.
        """
        today = self._today
        # Those that no forecast has used since yesterday.
        for bucket in [bucket for bucket, known in self._known.items() if known.day < today - 1]:
            del self._known[bucket]
        self._make_room()
        failed: StoreError | None = None
        in_a_row = 0
        for bucket, ledger in self._wanted.copy().items():  # copy() is atomic, iteration is not
            if bucket not in self._known and len(self._known) >= self._most:
                self._wanted.pop(bucket, None)  # the next forecast puts it on the list again
                continue
            try:
                profile = await self._learn(bucket, ledger, today)
            except StoreError as error:
                failed, in_a_row = error, in_a_row + 1
                self._wanted.pop(bucket, None)
                self._wanted[bucket] = ledger
                if in_a_row >= _FAILURES:
                    break
            else:
                in_a_row = 0
                self._known[bucket] = _Known(today, profile)
                self._wanted.pop(bucket, None)
            await asyncio.sleep(_BETWEEN)
        if failed is not None:
            raise failed

    def _make_room(self) -> None:
        """Forget the buckets without history if there is no room, because callers can create many of them.
        Called once for a list: it takes 0.1 ms.
        """
        if len(self._known) >= self._most:
            self._known = {
                bucket: known for bucket, known in self._known.items() if known.profile is not None
            }

    @property
    def _today(self) -> int:
        return int(self._clock() - self._later) // DAY

    async def _learn(self, bucket: str, ledger: LedgerRule, today: int) -> Profile | None:
        weeks = await self._weeks_of(ledger, today)
        return learn(await self._spent(bucket, weeks.books), weeks.end, ledger.by)

    async def _spent(self, bucket: str, of_weeks: Sequence[_Books]) -> list[tuple[int, int]]:
        """Return the net tokens of each hour or day of the bucket's ledger, with their starts."""
        spent: dict[int, int] = {}
        for books in of_weeks:
            starts = {f"{bucket}{end}": starts for end, starts in books.starts.items()}
            found = await self._store.read_books(list(starts), books.names)
            for key, entries in found.items():
                for text, tokens in entries.items():
                    name, _, kind = text.rpartition(":")
                    start = starts[key].get(name)
                    if start is not None and kind in (CHARGED, REFUNDED):
                        spent[start] = spent.get(start, 0) + (tokens if kind == CHARGED else -tokens)
            await asyncio.sleep(0)
        return list(spent.items())

    async def _weeks_of(self, ledger: LedgerRule, today: int) -> _Weeks:
        """Return the books of the last weeks. All buckets with the same ledger have the same."""
        known = self._books.get(ledger)
        if known is not None and known.day == today:
            return known
        books: dict[str, dict[str, int]] = {}
        second = (today - KEPT_DAYS) * DAY
        number = 0
        while second < today * DAY:
            each = _period(ledger, second)
            books.setdefault(each.book, {})[each.entry] = each.start
            second = each.end
            number += 1
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        found = []
        for first in range(0, len(books), _TOGETHER):
            some = dict(list(books.items())[first : first + _TOGETHER])
            names = {
                f"{name}:{kind}": None
                for starts in some.values()
                for name in starts
                for kind in (CHARGED, REFUNDED)
            }
            found.append(_Books(some, tuple(names)))
        if len(self._books) >= 100:
            self._books.clear()
        weeks = self._books[ledger] = _Weeks(today, _period(ledger, today * DAY).start, found)
        return weeks


def _period(ledger: LedgerRule, second: int) -> Period:
    unit = Unit.HOUR if ledger.by == "hour" else Unit.DAY
    return period(ledger.by, *span_at(Window(unit, 1, Calendar(ledger.zone)), second))
