"""The command `usage`: what was spent, added up from the ledgers of a domain."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TextIO

from ...core.ledger.price import amount, plain, total
from ...core.model import Calendar, Unit
from ...core.rfc3339 import moment
from ...core.windows import calendars
from . import formatting
from .client import Client
from .formatting import Json

PERIODS = {"hour": Unit.HOUR, "day": Unit.DAY, "month": Unit.MONTH}

_KINDS = ("charged", "refunded", "refused")


_Entries = tuple[tuple[str, str], ...]


class UsageQuery(NamedTuple):
    """The period, and what to add up. `by` are keys of descriptors, `since` and `until` seconds since 1970.

    `keys` selects the buckets with exactly these keys, in this order; without it, all that have those of `by`.
    """

    domain: str
    by: tuple[str, ...]
    since: int
    until: int
    per: str
    zone: str
    keys: tuple[str, ...] = ()


class Row(NamedTuple):
    """What was spent in one period. `keys` are those of the buckets that are added up."""

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
    """What the tokens cost, less those that were refunded."""

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


def usage(client: Client, asked: UsageQuery, form: str) -> int:
    """Print what was spent."""
    ledgers = read(client, asked).values()
    if form == "focus":
        from .focus import write_focus

        if not write_focus(ledgers, asked, sys.stdout):
            _say_none(asked)
        return 0
    found = list(rows(ledgers, asked))
    changes = amendments(client, asked) if form != "csv" else []
    if form == "json":
        print(json.dumps({**as_json(found, asked), "amendments": changes}, indent=2))
    elif form == "csv":
        write_csv(found, asked, sys.stdout)
    elif found:
        print("\n".join(table(found, asked)))
    if form == "table" and changes:
        print("\n".join(["", "Changes of limits:", *map(formatting.audit_line, changes)]))
    if not found:
        _say_none(asked)
    elif len({row.keys for row in found}) > 1:
        print(
            "note: buckets with different keys have lines of their own, because one request may be charged to several of them",
            file=sys.stderr,
        )
    return 0


def _say_none(asked: UsageQuery) -> None:
    print(
        f"no ledger has entries of {formatting.text(asked.domain)} in that time; a budget has a ledger if its rule says so: ledger: {{}}",
        file=sys.stderr,
    )


def rows(ledgers: Iterable[BucketUsage], asked: UsageQuery) -> Iterator[Row]:
    """Yield what was spent, by the period and the values, in their order.

    Buckets with different keys are never added up: a request that is charged to its team and to its user is in both.
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
    """Return whether a bucket is asked for."""
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
                for place, kind in enumerate(_KINDS):
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
    """Return a function from the start of an entry to its period, which computes each once: many buckets have the same."""
    unit, calendar = PERIODS[asked.per], Calendar(asked.zone)
    return lru_cache(maxsize=10_000)(lambda start: calendars.bounds(unit, 1, calendar, start))


def as_json(found: Sequence[Row], asked: UsageQuery) -> dict[str, Any]:
    """Return the rows as JSON."""
    return {
        "domain": asked.domain,
        "from": calendars.local_time(asked.zone, asked.since),
        "to": calendars.local_time(asked.zone, asked.until),
        "time_zone": asked.zone,
        "rows": [
            {
                "start": calendars.local_time(asked.zone, row.start),
                "end": calendars.local_time(asked.zone, row.end),
                "by": dict(zip(asked.by, row.values, strict=True)),
                "keys": row.keys.split(","),
                "charged": row.charged,
                "refunded": row.refunded,
                "refused": row.refused,
                "amount": plain(row.amount) if row.amount is not None else None,
                "currency": row.currency or None,
            }
            for row in found
        ],
    }


def write_csv(found: Sequence[Row], asked: UsageQuery, to: TextIO) -> None:
    """Write the rows as CSV (RFC 4180). A value that a spreadsheet would take for a formula begins with an apostrophe."""
    writer = csv.writer(to)
    writer.writerow(["start", "end", *map(cell, asked.by), "keys", *_KINDS, "amount", "currency"])
    for row in found:
        times = [calendars.local_time(asked.zone, at) for at in (row.start, row.end)]
        values = map(cell, row.values)
        money = [plain(row.amount) if row.amount is not None else "", row.currency]
        writer.writerow([*times, *values, cell(row.keys), *row.numbers, *money])


def cell(value: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def table(found: Sequence[Row], asked: UsageQuery) -> Iterator[str]:
    """Yield a line for each row, and the sums of each kind of bucket."""
    length = {"hour": 16, "day": 10, "month": 7}[asked.per]
    priced = any([row.currency for row in found])
    heads = [
        "FROM",
        *[formatting.text(key).upper() for key in asked.by],
        "KEYS",
        "TOKENS",
        "REFUNDED",
        "REFUSED",
    ]
    heads += ["AMOUNT"] if priced else []
    lines = [
        [
            calendars.local_time(asked.zone, row.start)[:length].replace("T", " "),
            *map(formatting.text, row.values),
            formatting.text(row.keys),
            *_numbers(row, priced=priced),
        ]
        for row in found
    ]
    of_keys: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        of_keys.setdefault((row.keys, row.currency), []).append(row)
    for (names, currency), of in sorted(of_keys.items()):
        charged, refunded, refused = [
            sum(column) for column in zip(*[row.numbers for row in of], strict=True)
        ]
        cost = total([row.amount for row in of if row.amount is not None]) if currency else None
        summed = Row(0, 0, (), names, charged, refunded, refused, currency, cost)
        lines.append(
            ["total", *[""] * len(asked.by), formatting.text(names), *_numbers(summed, priced=priced)]
        )
    widths = [max(formatting.width_of(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
    first_number = len(asked.by) + 2
    for line in [heads, *lines]:
        cells = [
            formatting.padded(text, width)
            if at < first_number
            else " " * (width - formatting.width_of(text)) + text
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _numbers(row: Row, *, priced: bool) -> list[str]:
    cells = [*map(formatting.amount, row.numbers)]
    if priced:
        cells.append(f"{row.amount:,.2f} {row.currency}" if row.amount is not None else "-")
    return cells
