"""Reads ledgers page by page, in the order of the store.

A page has what a few short steps through the keys of the store find, so it may be empty although more pages
follow. An entry can be on several pages, and with the memory store the kinds of one entry can be on different
pages: a reader takes the largest value of each kind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from ..core.ledger.entries import KINDS, LEDGER, read_entry
from ..core.ledger.price import Tariff, amount_text, tariff_of
from ..core.matching import keys
from ..core.matching.buckets import entries_of, find
from ..core.model import Entry
from ..ports import Clock, CounterStore
from .joining import Tree
from .prices import Prices

_STEPS = 50
_SECONDS = 0.1
"""A page ends after this many steps, or this many seconds."""

_BOOKS = 20
"""Books that are read together: their entries take the event loop some two milliseconds."""

MOST_ENTRIES = 5_000
"""A page ends once it has this many entries. The last step can add a few thousand more."""


class UsageEntry(NamedTuple):
    """An entry of a ledger: what happened in the hour or day that begins at `start`, and what a million
    tokens cost then.
    """

    start: int
    charged: int
    refunded: int
    refused: int
    per_million: str | None = None

    @property
    def amount(self) -> str | None:
        """Return what its tokens cost; None without a price."""
        if self.per_million is None:
            return None
        return amount_text(self.charged - self.refunded, self.per_million)


class Book(NamedTuple):
    """Entries of one bucket, all `by` the hour or by the day."""

    bucket: str
    entries: tuple[Entry, ...]
    by: str
    spent: Sequence[UsageEntry]
    currency: str | None = None
    """That of its prices; None where it has none."""


class UsagePage(NamedTuple):
    """Some books, and where the next page begins (empty: at the end)."""

    books: Sequence[Book]
    next_cursor: str
    model_key: bytes
    """The key of the entry with the model, by which PRICES_FILE has prices."""


class Usage:
    """Reads ledgers. `tree` returns the rules in force, `prefix` is CACHE_KEY_PREFIX, `clock` is
    monotonic.
    """

    def __init__(
        self,
        store: CounterStore,
        tree: Tree,
        prices: Prices | None = None,
        prefix: str = "",
        clock: Clock = time.monotonic,
    ) -> None:
        self._store = store
        self._tree = tree
        self._prices = prices if prices is not None else Prices()
        self._prefix = prefix
        self._read = read_entry(prefix)
        self._clock = clock

    async def page(self, domain: str, since: int, until: int, cursor: str = "") -> UsagePage:
        """Return entries of a domain that begin from `since` on and before `until`. Raises InvalidRequest or
        StoreError.
        """
        await self._prices.refresh()
        begin = f"{self._prefix}{{{keys.domain_text(domain)}|"
        end = self._clock() + _SECONDS
        dates = _date(since), _date(until)
        found: dict[tuple[tuple[str, ...], str], dict[int, list[int]]] = {}
        number = 0
        for _ in range(_STEPS):
            step, cursor = await self._store.walk(begin, f"}}:{LEDGER}:", cursor)
            wanted = [key for key in step if _overlaps(key, *dates)]
            for at in range(0, len(wanted), _BOOKS):
                books = await self._store.read_books(wanted[at : at + _BOOKS])
                for key, book in books.items():
                    for name, value in book.items():
                        entry = self._read(key + name)
                        start = _second(entry.start) if entry is not None else None
                        if entry is None or start is None or not since <= start < until:
                            continue
                        of_bucket = found.setdefault((entry.entries, entry.by), {})
                        if start not in of_bucket:
                            of_bucket[start] = [0, 0, 0]
                            number += 1
                        of_bucket[start][KINDS.index(entry.kind)] = value
            if not cursor or number >= MOST_ENTRIES or self._clock() >= end:
                break
        listed = [
            self._book(domain, f"{begin}{'|'.join(texts)}}}", texts, by, spent)
            for (texts, by), spent in found.items()
        ]
        return UsagePage(listed, cursor, self._prices.models.key)

    def _book(
        self, domain: str, bucket: str, texts: tuple[str, ...], by: str, spent: Mapping[int, Sequence[int]]
    ) -> Book:
        entries = entries_of(texts)
        tariff = self._tariff(domain, texts, entries)
        return Book(
            bucket,
            entries,
            by,
            [
                UsageEntry(
                    start, charged, refunded, refused, tariff.per_million_at(start) if tariff else None
                )
                for start, (charged, refunded, refused) in sorted(spent.items())
            ],
            tariff.currency if tariff is not None else None,
        )

    def _tariff(self, domain: str, texts: tuple[str, ...], entries: Sequence[Entry]) -> Tariff | None:
        """Return what a bucket costs by the prices that are in force now."""
        tree = self._tree()
        rules = tree.domains.get(domain) if tree is not None else None
        found = find(rules, texts) if rules is not None else None
        return tariff_of(found.rule.price if found is not None else None, self._prices.models, entries)


def _overlaps(key: str, first: str, last: str) -> bool:
    """Return whether a book, or an entry in memory, can have entries of these dates."""
    by, _, date = key.rpartition(f"}}:{LEDGER}:")[2].partition(":")
    length = 10 if by == "hour" else 7
    return first[:length] <= date[:length] <= last[:length]


def _date(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).date().isoformat()


@lru_cache(maxsize=10_000)
def _second(start: str) -> int | None:
    """Return the second since 1970 of a start; None for a text that is no moment, or later than the
    year 9999.
    """
    try:
        return int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
