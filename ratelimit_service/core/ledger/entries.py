"""The entries of a ledger, and their keys.

    {token-budgets|team=dba}:ledger:hour:2026-11-21    the book of a day
        T01Z:charged   4211                            its entries: tokens, and the number of refused requests
        T01Z:refused   3

A book is a hash in Redis: of the hours of a day, or the days of a month. It has so few entries that Redis
keeps them in a listpack, which takes a tenth of the memory of a counter for each. In the memory store each
entry is a counter of its own, whose key is the key of the book and the name of the entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

LEDGER: Final = "ledger"
"""The key of a book is `<bucket>:ledger:<by>:<date>`."""

CHARGED: Final = "charged"
REFUNDED: Final = "refunded"
REFUSED: Final = "refused"
KINDS: Final = (CHARGED, REFUNDED, REFUSED)

_PART: Final = f"}}:{LEDGER}:"


class Period(NamedTuple):
    """An hour or a day: [start, end) in seconds since 1970, the end of the key of its book, and its name
    there.
    """

    start: int
    end: int
    book: str
    entry: str


class Record(NamedTuple):
    """Where the entry of a hit is. All hits of a bucket and a period share one."""

    book: str
    """The key of the book."""
    entry: str
    """The hour or the day, as in Period.entry."""
    life: int
    """The time to live of the book, if it is new."""
    charged: str
    """The key of the entry of charges in the memory store."""


class EntryKey(NamedTuple):
    """The content of the key and the name of an entry. `domain` and `entries` are texts, escaped as in the
    key.
    """

    domain: str
    entries: tuple[str, ...]
    by: str
    start: str
    kind: str


def period(by: str, start: int, end: int, label: str) -> Period:
    """Return the period of a window of an hour or a day, by its label in counter keys:
    `hour:2026-11-21T01Z`.
    """
    instant = label.partition(":")[2]
    date, t, clock = instant.partition("T")
    begin = date if by == "hour" else date[:-3]
    return Period(start, end, f":{LEDGER}:{by}:{begin}", f"{date[len(begin) :]}{t}{clock}")


def record(bucket: str, period: Period, life: int) -> Record:
    """Return where the entries of a bucket are in a period."""
    book = bucket + period.book
    return Record(book, period.entry, life, f"{book}{period.entry}:{CHARGED}")


def is_of_ledger(key: str) -> bool:
    """Return whether a key is of a ledger, and not a counter."""
    return _PART in key


def read_entry(prefix: str) -> Callable[[str], EntryKey | None]:
    """Return a function that parses the key of a book with the name of an entry, and returns None for any
    other text.

    `prefix` is CACHE_KEY_PREFIX.
    """
    of_bucket = re.compile(re.escape(prefix) + r"\{([^{}|]*)\|([^{}]*)").fullmatch
    of_entry = re.compile(
        r"(hour|day):([0-9]{4,6}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}(?::[0-9]{2}){0,2}Z)?):("
        + "|".join(KINDS)
        + ")",
        re.ASCII,
    ).fullmatch

    # The entries of a book come one after another, and those of all books are of some hundred hours.
    @lru_cache(maxsize=64)
    def read_bucket(text: str) -> tuple[str, tuple[str, ...]] | None:
        found = of_bucket(text)
        return (found[1], tuple(found[2].split("|"))) if found is not None else None

    @lru_cache(maxsize=2_000)
    def read_rest(text: str) -> tuple[str, str, str] | None:
        found = of_entry(text)
        return (found[1], found[2], found[3]) if found is not None else None

    def read(key: str) -> EntryKey | None:
        bucket, _, rest = key.partition(_PART)
        head, tail = read_bucket(bucket), read_rest(rest)
        return EntryKey(*head, *tail) if head is not None and tail is not None else None

    return read
