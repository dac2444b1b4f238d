"""What the ledgers have: a page at a time, in the order of the store.

A page is what a few short steps through the keys of the store find, so it may be empty although there are more. An entry
can be on several pages, and in memory the kinds of one entry on different ones: whoever adds them up takes the largest
value of each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ..core.ledger.entries import KINDS, LEDGER, read_entry
from ..core.matching import keys
from ..core.matching.buckets import entries_of
from ..core.model import Entry
from ..ports import Clock, CounterStore

_STEPS = 50
_SECONDS = 0.1
"""A page is sent after so many steps, or so much time."""

_BOOKS = 20
"""Books that are read together: their entries take the event loop some two milliseconds."""

MOST_ENTRIES = 5_000
"""A page is sent once it has so many entries. One step can find a few thousand more."""


class Spent(NamedTuple):
    """An entry of a ledger: what happened in the hour or day that begins at `start`."""

    start: int
    charged: int
    refunded: int
    refused: int


class Book(NamedTuple):
    """Entries of one bucket, all `by` the hour or by the day."""

    bucket: str
    entries: tuple[Entry, ...]
    by: str
    spent: Sequence[Spent]


class UsagePage(NamedTuple):
    """Some books, and where the next page begins (empty: at the end)."""

    books: Sequence[Book]
    next_cursor: str


class Usage:
    """Reads ledgers. `prefix` is CACHE_KEY_PREFIX, `clock` is monotonic."""

    def __init__(self, store: CounterStore, prefix: str = "", clock: Clock = time.monotonic) -> None:
        self._store = store
        self._prefix = prefix
        self._read = read_entry(prefix)
        self._clock = clock

    async def page(self, domain: str, since: int, until: int, cursor: str = "") -> UsagePage:
        """Return entries of a domain that begin from `since` on and before `until`. Raises InvalidRequest or StoreError."""
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
            Book(
                f"{begin}{'|'.join(texts)}}}",
                entries_of(texts),
                by,
                [Spent(start, *values) for start, values in sorted(spent.items())],
            )
            for (texts, by), spent in found.items()
        ]
        return UsagePage(listed, cursor)


def _overlaps(key: str, first: str, last: str) -> bool:
    """Return whether a book, or an entry in memory, can have entries of these dates."""
    by, _, date = key.rpartition(f"}}:{LEDGER}:")[2].partition(":")
    length = 10 if by == "hour" else 7
    return first[:length] <= date[:length] <= last[:length]


def _date(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d")


def _second(start: str) -> int | None:
    """Return the second since 1970 of a start; None for a text that is no moment, or later than the year 9999."""
    try:
        return int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
