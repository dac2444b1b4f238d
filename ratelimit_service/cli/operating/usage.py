"""The command `usage`: prints what was spent, as a table, JSON or CSV, or as a FOCUS dataset (focus.py)."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from ...core.ledger.price import plain, total
from ...core.windows import calendars
from . import formatting
from .client import Client
from .ledgers import KINDS, Row, UsageQuery, amendments, cell, read, rows


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
            "note: buckets with different keys have lines of their own, because one request may be charged "
            "to several of them",
            file=sys.stderr,
        )
    return 0


def _say_none(asked: UsageQuery) -> None:
    print(
        f"no ledger has entries of {formatting.text(asked.domain)} in that time; a budget has a ledger if "
        "its rule says so: ledger: {}",
        file=sys.stderr,
    )


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
    """Write the rows as CSV (RFC 4180). A value that a spreadsheet would take for a formula begins with an
    apostrophe.
    """
    writer = csv.writer(to)
    writer.writerow(["start", "end", *map(cell, asked.by), "keys", *KINDS, "amount", "currency"])
    for row in found:
        times = [calendars.local_time(asked.zone, at) for at in (row.start, row.end)]
        values = map(cell, row.values)
        money = [plain(row.amount) if row.amount is not None else "", row.currency]
        writer.writerow([*times, *values, cell(row.keys), *row.numbers, *money])


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
