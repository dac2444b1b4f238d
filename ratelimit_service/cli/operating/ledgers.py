"""Reads the ledgers of a domain over the API, and adds them up by period and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from ...core.ledger.price import amount, total
from ...core.model import Calendar, Unit
from ...core.rfc3339 import moment
from ...core.windows import calendars
from .client import Client
from .formatting import Json

PERIODS = {"hour": Unit.HOUR, "day": Unit.DAY, "month": Unit.MONTH}


KINDS = ("charged", "refunded", "refused")

_Entries = tuple[tuple[str, str], ...]


class UsageQuery(NamedTuple):
    """The period, and what to add up. `by` are keys of descriptors, `since` and `until` seconds since 1970.

    `keys` selects the buckets with exactly these keys, in this order; without it, all that have those of
    `by`.
    """

    domain: str
    by: tuple[str, ...]
    since: int
    until: int
    per: str
    zone: str
    keys: tuple[str, ...] = ()


class Row(NamedTuple):
    """The usage in one period. `keys` are the keys of the summed buckets."""

    start: int
    end: int
    values: tuple[str, ...]
    keys: str
    charged: int
    refunded: int
    refused: int
    currency: str = ""
    """That of the amount; empty without a price."""
    amount: Decimal | None = None
    """The cost of the tokens, without the refunded ones."""

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Return the sums of each kind."""
        return self.charged, self.refunded, self.refused


class BucketUsage(NamedTuple):
    """The ledger of one bucket: what an hour or day has of each kind, and its price, by the start."""

    entries: _Entries
    currency: str
    spent: dict[int, list[int]]
    prices: dict[int, str]
    model_key: str = "model"
    """The key of the entry with the model."""


def rows(ledgers: Iterable[BucketUsage], asked: UsageQuery) -> Iterator[Row]:
    """Yield what was spent, by the period and the values, in their order.

    Buckets with different keys are never added up: a request that is charged to its team and to its user is
    in both.
    """
    sums: dict[tuple[int, int, tuple[str, ...], str, str], list[int]] = {}
    priced: dict[tuple[int, int, tuple[str, ...], str, str], dict[str, int]] = {}
    """The tokens at each price: amounts are exact, so they are computed once for all tokens."""
    period = periods(asked)
    for found in ledgers:
        if not selected(found, asked):
            continue
        own = dict(found.entries)
        values = tuple([own[key] for key in asked.by])
        names = ",".join([key for key, _ in found.entries])
        for start, kinds in found.spent.items():
            price = found.prices.get(start)
            of = (*period(start), values, names, found.currency if price else "")
            sum_of = sums.setdefault(of, [0, 0, 0])
            for place, value in enumerate(kinds):
                sum_of[place] += value
            if price:
                at_price = priced.setdefault(of, {})
                at_price[price] = at_price.get(price, 0) + kinds[0] - kinds[1]
    for of, (charged, refunded, refused) in sorted(sums.items()):
        start, end, values, names, currency = of
        cost = (
            total([amount(tokens, price) for price, tokens in priced[of].items()]) if of in priced else None
        )
        yield Row(start, end, values, names, charged, refunded, refused, currency, cost)


def selected(found: BucketUsage, asked: UsageQuery) -> bool:
    """Return whether a bucket is selected."""
    names = tuple([key for key, _ in found.entries])
    return set(names).issuperset(asked.by) and (not asked.keys or names == asked.keys)


def read(client: Client, asked: UsageQuery) -> dict[tuple[str, str], BucketUsage]:
    """Return every ledger once, by the bucket and the length of its entries; one can be on several pages."""
    found: dict[tuple[str, str], BucketUsage] = {}
    for page in _pages(client, "/usage", asked):
        for book in page["books"]:
            entries = tuple([(str(key), str(value)) for key, value in book["entries"]])
            ledgered = found.setdefault(
                (book["bucket"], book["by"]),
                BucketUsage(entries, book["currency"] or "", {}, {}, page.get("model_key", "model")),
            )
            for each in book["spent"]:
                start = _second_of(each["start"])
                known = ledgered.spent.setdefault(start, [0, 0, 0])
                for place, kind in enumerate(KINDS):
                    known[place] = max(known[place], int(each[kind]))
                if each["per_million"] is not None:
                    ledgered.prices[start] = each["per_million"]
    return found


def amendments(client: Client, asked: UsageQuery) -> list[Json]:
    """Return the top-ups, overrides and resets of that time, the earliest first."""
    found = [line for page in _pages(client, "/usage-amendments", asked) for line in page["lines"]]
    return found[::-1]


def _pages(client: Client, path: str, asked: UsageQuery) -> Iterator[Json]:
    """Yield all pages of a list of the domain in that time."""
    return client.pages(path, domain=asked.domain, since=moment(asked.since), until=moment(asked.until))


@lru_cache(maxsize=10_000)
def _second_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def periods(asked: UsageQuery) -> Callable[[int], tuple[int, int]]:
    """Return a function from the start of an entry to its period, which computes each once: many buckets have
    the same.
    """
    unit, calendar = PERIODS[asked.per], Calendar(asked.zone)
    return lru_cache(maxsize=10_000)(lambda start: calendars.bounds(unit, 1, calendar, start))


def cell(value: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
