"""Usage over HTTP, and as the command line sums it up: the export has every charged token."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ratelimit_service.amending import operations
from ratelimit_service.amending.operations import Attribution
from ratelimit_service.cli.operating.client import Client, server_of
from ratelimit_service.cli.operating.ledgers import Row, UsageQuery, amendments, rows
from ratelimit_service.cli.operating.ledgers import read as read_ledgers
from ratelimit_service.cli.operating.usage import as_json, table, write_csv
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.ledger.price import plain
from ratelimit_service.core.model import Descriptor, Entry
from ratelimit_service.core.rules.prices import read_model_prices
from ratelimit_service.core.windows.dates import start_of
from ratelimit_service.sources.yaml_text import read as read_yaml

from .served_api import ServedApi, serve_api

RULES = """
domain: d
time_zone: Europe/Berlin
descriptors:
  - key: team
    rate_limit: {unit: month, tokens_per_unit: 100_000}
    ledger: {by: hour}
    descriptors:
      - key: user
        rate_limit: {unit: month, tokens_per_unit: 100_000}
        ledger: {by: day}
"""


def asked(api: ServedApi, first: str, last: str, *by: str, per: str = "day", zone: str = "UTC") -> UsageQuery:
    return UsageQuery("d", by, start_of(first, zone), start_of(last, zone), per, zone)


async def read(api: ServedApi, wanted: UsageQuery) -> list[Row]:
    """Return the sums of the command line for the pages of the API."""
    url = api.client.base_url
    client = Client(server_of(f"{url.host}:{url.port}"), timeout=120)
    return await asyncio.to_thread(lambda: list(rows(read_ledgers(client, wanted).values(), wanted)))


async def books_of(api: ServedApi, since: str, until: str) -> list[Any]:
    """Return the books on all pages."""
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await api.get("/usage", domain="d", since=since, until=until, cursor=cursor)
        found += page["books"]
        cursor = page["next_cursor"]
    return found


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
async def test_a_month_of_two_hundred_teams_is_exported_to_the_token(zone: str) -> None:
    """It includes the ends of daylight saving time: 25 October in Berlin, 1 November in New York."""
    random, charged = Random(zone), Counter[tuple[str, str]]()
    async with serve_api(ServedApi(files=[RULES])) as api:
        start = datetime(2026, 10, 10, tzinfo=ZoneInfo(zone))
        end = datetime(2026, 11, 9, tzinfo=ZoneInfo(zone))
        hours = int(end.timestamp() - start.timestamp()) // 3_600
        assert 30 * 24 + 1 == hours
        for hour in range(hours):
            api.limiter.now = start.timestamp() + hour * 3_600 + random.randrange(3_600)
            local = datetime.fromtimestamp(api.limiter.now, ZoneInfo(zone))
            for _ in range(12):
                team, tokens = f"t{random.randrange(200)}", random.randrange(1, 4_000)
                api.ask(f"team={team}", hits=tokens)
                charged[f"{local:%Y-%m-%d}", team] += tokens
        found = await read(api, asked(api, "2026-10-10", "2026-11-09", "team", zone=zone))
        exported = {
            (f"{datetime.fromtimestamp(row.start, ZoneInfo(zone)):%Y-%m-%d}", *row.values): row.charged
            for row in found
        }
        assert charged == exported
        lengths = Counter([row.end - row.start for row in found])
        assert {86_400, 90_000} == set(lengths)
        assert 200 == len({row.values for row in found})


async def test_buckets_with_different_keys_are_summed_separately() -> None:
    """A request that charges its team and its user is in both ledgers."""
    async with serve_api(ServedApi(files=[RULES])) as api:
        api.ask("team=dba", hits=7)
        api.ask("team=dba user=ana", hits=5)
        api.ask("team=dba user=bo", hits=3)
        found = await read(api, asked(api, "2026-11-20", "2026-11-23", "team", zone="Europe/Berlin"))
        assert [(("dba",), "team", 7), (("dba",), "team,user", 8)] == [
            (row.values, row.keys, row.charged) for row in found
        ]
        assert [("dba", "ana"), ("dba", "bo")] == [
            row.values for row in await read(api, asked(api, "2026-11-20", "2026-11-23", "team", "user"))
        ]


async def test_refunds_and_refused_requests_have_columns_of_their_own() -> None:
    """In the table and in the CSV file, in which no value is a formula."""
    async with serve_api(ServedApi(files=[RULES])) as api:
        api.ask("team==SUM(A1)", hits=100_000)
        for _ in range(3):
            api.ask("team==SUM(A1)", hits=0)
        wanted = asked(api, "2026-11-01", "2026-12-01", "team", per="month")
        found = await read(api, wanted)
        assert [(100_000, 0, 3)] == [row.numbers for row in found]
        text = io.StringIO()
        write_csv(found, wanted, text)
        assert [
            ["start", "end", "team", "keys", "charged", "refunded", "refused", "amount", "currency"],
            [
                "2026-11-01T00:00:00+00:00",
                "2026-12-01T00:00:00+00:00",
                "'=SUM(A1)",
                "team",
                "100000",
                "0",
                "3",
                "",
                "",
            ],
        ] == list(csv.reader(io.StringIO(text.getvalue())))
        assert [
            "FROM     TEAM      KEYS   TOKENS  REFUNDED  REFUSED",
            "2026-11  =SUM(A1)  team  100,000         0        3",
            "total              team  100,000         0        3",
        ] == list(table(found, wanted))


PRICED = """
domain: d
descriptors:
  - key: team
    rate_limit: {unit: month, tokens_per_unit: 100_000_000}
    ledger: {by: hour}
    price: {per_million: 0.10, currency: USD}
    descriptors:
      - key: model
        rate_limit: {unit: month, tokens_per_unit: 100_000_000}
        ledger: {by: hour}
        price: {per_million: 9, currency: USD}
"""
MODELS = read_model_prices(
    read_yaml(
        "prices.yaml",
        "{currency: EUR, prices: [{model: large, per_million: 2.50}, {model: large, per_million: 3, "
        "from: 2026-12-01}]}",
    )
)


async def test_tokens_with_a_price_have_a_cost() -> None:
    """The price is that of the model from its date on, or else that of the rule. Refunds are deducted, and
    each currency has its own sum.
    """
    async with serve_api(ServedApi(files=[PRICED])) as api:
        api.prices.models = MODELS
        api.ask("team=dba", hits=3_000_000)
        api.limiter.ask(Descriptor((Entry(b"team", b"dba"),), 1_000_000, negative=True))
        api.ask("team=dba model=large", hits=1_000_001)
        api.ask("team=dba model=small", hits=1_000_000)
        api.limiter.now = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
        api.ask("team=dba model=large", hits=1_000_000)
        wanted = asked(api, "2026-11-01", "2027-01-01", "team", per="month")
        found = await read(api, wanted)
        assert [
            (11, "team", "USD", "0.2"),
            (11, "team,model", "EUR", "2.5000025"),
            (11, "team,model", "USD", "9"),
            (12, "team,model", "EUR", "3"),
        ] == [
            (
                datetime.fromtimestamp(row.start, UTC).month,
                row.keys,
                row.currency,
                plain(row.amount or Decimal(0)),
            )
            for row in found
        ]
        assert [
            "FROM     TEAM  KEYS           TOKENS   REFUNDED  REFUSED    AMOUNT",
            "2026-11  dba   team        3,000,000  1,000,000        0  0.20 USD",
            "2026-11  dba   team,model  1,000,001          0        0  2.50 EUR",
            "2026-11  dba   team,model  1,000,000          0        0  9.00 USD",
            "2026-12  dba   team,model  1,000,000          0        0  3.00 EUR",
            "total          team        3,000,000  1,000,000        0  0.20 USD",
            "total          team,model  2,000,001          0        0  5.50 EUR",
            "total          team,model  1,000,000          0        0  9.00 USD",
        ] == list(table(found, wanted))
        assert ["0.2", "2.5000025", "9", "3"] == [row["amount"] for row in as_json(found, wanted)["rows"]]
        books = await books_of(api, "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
        assert [("EUR", "3", "3")] == [
            (book["currency"], each["per_million"], each["amount"])
            for book in books
            for each in book["spent"]
        ]


async def test_top_ups_and_overrides_are_listed_beside_usage() -> None:
    """Each is listed once, however often its request was sent, if it is of the domain and the period; also
    among many others.
    """
    async with serve_api(ServedApi(files=[RULES])) as api:
        at = int(api.limiter.now)
        api.ask("team=dba", hits=7)

        async def change(key: str, text: str = "team=dba", *, domain: str = "d", at: int = at) -> None:
            api.limiter.now = at
            by = Attribution("ana", "launch", key)
            await api.operations.apply(by, [api.operations.make_top_up(by, parse(domain, text), 500)])

        await change("before", at=at - 1)
        for key in ("one", "two", "one", "two", "one"):
            await change(key)
        await change("elsewhere", domain="e")
        await api.operations.apply(
            Attribution("bo", "done", "three"),
            [api.operations.make_override(Attribution("bo", "done", "three"), parse("d", "team=*"), 0)],
        )
        await api.operations.reset(Attribution("bo", "again", "four"), parse("d", "team=dba"))
        await change("after", at=at + 10)
        since, until = (datetime.fromtimestamp(second, UTC).isoformat() for second in (at, at + 10))
        page = await api.get("/usage-amendments", domain="d", since=since, until=until)
        assert [("four", "reset"), ("three", "put"), ("two", "put"), ("one", "put")] == [
            (line["key"], line["action"]) for line in page["lines"]
        ]
        wanted = UsageQuery("d", ("team",), at, at + 10, "day", "UTC")
        url = api.client.base_url
        client = Client(server_of(f"{url.host}:{url.port}"), timeout=120)
        found = await asyncio.to_thread(amendments, client, wanted)
        assert page["lines"] == found[::-1]


async def test_changes_of_a_domain_are_found_after_many_of_other_domains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One page searches a part of the audit, and its cursor continues the search."""
    monkeypatch.setattr(operations, "MOST_AUDITED", 3)
    async with serve_api(ServedApi(files=[RULES])) as api:
        for number in range(40):
            by = Attribution("ana", "why", f"{number}")
            domain = "d" if number in (0, 1, 39) else "e"
            await api.operations.apply(by, [api.operations.make_top_up(by, parse(domain, "team=dba"), 1)])
        wanted = UsageQuery("d", (), 0, int(api.limiter.now) + 1, "day", "UTC")
        url = api.client.base_url
        client = Client(server_of(f"{url.host}:{url.port}"), timeout=120)
        found = await asyncio.to_thread(amendments, client, wanted)
        assert ["0", "1", "39"] == [line["key"] for line in found]


async def test_only_entries_that_begin_in_the_given_period_are_listed() -> None:
    """Including its first second, excluding its end. Entries of other domains and of buckets that were only
    checked are left out.
    """
    async with serve_api(ServedApi(files=[RULES])) as api:
        for hour in range(4):
            api.limiter.now = datetime(2026, 11, 21, hour, 59, tzinfo=UTC).timestamp()
            api.ask("team=dba", hits=1 + hour)
        api.ask("team=idle", hits=0)
        books = await books_of(api, "2026-11-21T01:00:00Z", "2026-11-21T03:00:00Z")
        assert {("{d|team=dba}", "hour")} == {(book["bucket"], book["by"]) for book in books}
        assert [["team", "dba"]] == books[0]["entries"]
        seen = [(each["start"], each["charged"]) for book in books for each in book["spent"]]
        assert [("2026-11-21T01:00:00Z", 2), ("2026-11-21T02:00:00Z", 3)] == sorted(seen)
        nothing = await api.get(
            "/usage", domain="e", since="2026-11-21T00:00:00Z", until="2026-11-22T00:00:00Z"
        )
        assert [] == nothing["books"]


@pytest.mark.parametrize(
    "status, parameters",
    [
        (422, {"since": "yesterday", "until": "2026-11-22T00:00:00Z"}),
        (422, {"since": "2026-11-21T00:00:00", "until": "2026-11-22T00:00:00Z"}),
        (422, {"since": "0001-01-01T00:00:00+14:00", "until": "2026-11-22T00:00:00Z"}),
        (422, {"since": "2026-11-21T00:00:00Z", "until": "9999-12-31T23:59:59-14:00"}),
        (400, {"since": "2026-11-21T00:00:00Z"}),
        (422, {"since": "2026-11-21T00:00:00Z", "until": "2026-11-22T00:00:00Z", "cursor": "x"}),
    ],
)
async def test_an_invalid_time_or_cursor_is_refused(
    api: ServedApi, status: int, parameters: dict[str, str]
) -> None:
    """With the same problem as in other lists of the API."""
    problem = await api.get("/usage", status, domain="d", **parameters)
    assert problem["detail"]


def test_a_date_begins_at_the_first_moment_of_its_day() -> None:
    """This may not be midnight: Beirut sets clocks forward at 0:00, and Samoa skipped a whole day."""
    assert datetime(2026, 10, 31, 23, tzinfo=UTC).timestamp() == start_of("2026-11-01", "Europe/Berlin")
    assert datetime(2026, 3, 28, 22, tzinfo=UTC).timestamp() == start_of("2026-03-29", "Asia/Beirut")
    assert 0 == start_of("1970-01-01T01:00:00+01:00", "Asia/Tokyo")
    for text in ("2011-12-30", "2026-11", "2026-11-01T00:00:00", "tomorrow", "2026-02-30"):
        with pytest.raises(InvalidRequest, match="is not a date"):
            start_of(text, "Pacific/Apia")
