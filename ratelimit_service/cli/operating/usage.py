"""The command `usage`: what was spent, added up from the ledgers of a domain."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TextIO

from ...core.errors import InvalidRequest
from ...core.model import Calendar, Unit
from ...core.moments import moment
from ...core.windows import calendars
from . import shown
from .client import Client

PERIODS = {"hour": Unit.HOUR, "day": Unit.DAY, "month": Unit.MONTH}
FORMATS = ("table", "csv", "json")

_KINDS = ("charged", "refunded", "refused")


_Entries = tuple[tuple[str, str], ...]


class Asked(NamedTuple):
    """What is asked for. `by` are keys of descriptors, `since` and `until` seconds since 1970."""

    domain: str
    by: tuple[str, ...]
    since: int
    until: int
    per: str
    zone: str


class Row(NamedTuple):
    """What was spent in one period. `keys` are those of the buckets that are added up."""

    start: int
    end: int
    values: tuple[str, ...]
    keys: str
    charged: int
    refunded: int
    refused: int


def usage(client: Client, asked: Asked, form: str) -> int:
    """Print what was spent."""
    found = list(rows(client, asked))
    if form == "json":
        print(json.dumps(as_json(found, asked), indent=2))
    elif form == "csv":
        write_csv(found, asked, sys.stdout)
    elif found:
        print("\n".join(table(found, asked)))
    if not found:
        print(f"no ledger has entries of {shown.text(asked.domain)} in that time", file=sys.stderr)
    elif len({row.keys for row in found}) > 1:
        print(
            "note: buckets with different keys stand apart, because one request may be charged to several of them",
            file=sys.stderr,
        )
    return 0


def rows(client: Client, asked: Asked) -> Iterator[Row]:
    """Yield what was spent, by the period and the values, in their order.

    Buckets with different keys are never added up: a request that is charged to its team and to its user is in both.
    """
    sums: dict[tuple[int, int, tuple[str, ...], str], list[int]] = {}
    for entries, spent in _read(client, asked).values():
        own = dict(entries)
        if any([key not in own for key in asked.by]):
            continue
        values = tuple([own[key] for key in asked.by])
        names = ",".join([key for key, _ in entries])
        for start, kinds in spent.items():
            period = _period(asked, start)
            total = sums.setdefault((*period, values, names), [0, 0, 0])
            for place, value in enumerate(kinds):
                total[place] += value
    for (start, end, values, names), (charged, refunded, refused) in sorted(sums.items()):
        yield Row(start, end, values, names, charged, refunded, refused)


def _read(client: Client, asked: Asked) -> dict[tuple[str, str], tuple[_Entries, dict[int, list[int]]]]:
    """Return every entry once, by its bucket and its start; it can be on several pages."""
    found: dict[tuple[str, str], tuple[_Entries, dict[int, list[int]]]] = {}
    cursor: str | None = None
    while True:
        page = client.get(
            "/usage",
            domain=asked.domain,
            since=moment(asked.since),
            until=moment(asked.until),
            cursor=cursor,
        )
        for book in page["books"]:
            entries = tuple([(str(key), str(value)) for key, value in book["entries"]])
            _, of_bucket = found.setdefault((book["bucket"], book["by"]), (entries, {}))
            for each in book["spent"]:
                start = int(datetime.fromisoformat(each["start"]).timestamp())
                known = of_bucket.setdefault(start, [0, 0, 0])
                for place, kind in enumerate(_KINDS):
                    known[place] = max(known[place], int(each[kind]))
        cursor = page["next_cursor"]
        if not cursor:
            return found


def _period(asked: Asked, start: int) -> tuple[int, int]:
    return calendars.bounds(PERIODS[asked.per], 1, Calendar(asked.zone), start)


def as_json(found: Sequence[Row], asked: Asked) -> Mapping[str, object]:
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
            }
            for row in found
        ],
    }


def write_csv(found: Sequence[Row], asked: Asked, to: TextIO) -> None:
    """Write the rows as CSV (RFC 4180). A value that a spreadsheet would take for a formula begins with an apostrophe."""
    writer = csv.writer(to)
    writer.writerow(["start", "end", *map(_cell, asked.by), "keys", *_KINDS])
    for row in found:
        times = [calendars.local_time(asked.zone, at) for at in (row.start, row.end)]
        values = map(_cell, row.values)
        writer.writerow([*times, *values, _cell(row.keys), row.charged, row.refunded, row.refused])


def _cell(value: str) -> str:
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def table(found: Sequence[Row], asked: Asked) -> Iterator[str]:
    """Yield a line for each row, and the sums of each kind of bucket."""
    length = {"hour": 16, "day": 10, "month": 7}[asked.per]
    heads = ["FROM", *[shown.text(key).upper() for key in asked.by], "KEYS", "TOKENS", "REFUNDED", "REFUSED"]
    lines = [
        [
            calendars.local_time(asked.zone, row.start)[:length].replace("T", " "),
            *map(shown.text, row.values),
            shown.text(row.keys),
            *map(shown.amount, row[4:]),
        ]
        for row in found
    ]
    sums: dict[str, list[int]] = {}
    for row in found:
        total = sums.setdefault(row.keys, [0, 0, 0])
        for place, value in enumerate(row[4:]):
            total[place] += value
    blank = [""] * len(asked.by)
    lines += [
        ["total", *blank, shown.text(names), *map(shown.amount, total)]
        for names, total in sorted(sums.items())
    ]
    widths = [max(shown.width_of(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
    first_number = len(heads) - 3
    for line in [heads, *lines]:
        cells = [
            shown.padded(cell, width) if at < first_number else " " * (width - shown.width_of(cell)) + cell
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def second_of(text: str, zone: str) -> int:
    """Return the second of a date, which begins in a time zone, or of a moment in RFC 3339. Raises InvalidRequest."""
    wrong = InvalidRequest(f"{text!r} is no date: give one such as 2026-11-01, or 2026-11-01T00:00:00Z")
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return int(found.timestamp())
        if len(text) != 10:
            raise wrong
        noon = int(found.replace(hour=12, tzinfo=UTC).timestamp())
        # The day of the zone that has the noon of this date; its first instant need not be midnight.
        for around in (noon, noon - 43_200, noon + 43_200):
            start, _ = calendars.bounds(Unit.DAY, 1, Calendar(zone), around)
            if calendars.local_time(zone, start)[:10] == text:
                return start
    except (ValueError, OverflowError):
        raise wrong from None
    raise wrong
