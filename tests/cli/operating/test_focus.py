"""The export as a FOCUS dataset, by the requirements of version 1.2 of the specification.

No package checks this version, so the requirements for the exported columns are in this file.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ratelimit_service.cli.operating.client import Client, server_of
from ratelimit_service.cli.operating.focus import COLUMNS, write_focus
from ratelimit_service.cli.operating.ledgers import BucketUsage, UsageQuery, read
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.ledger.price import ModelPrices, Step
from ratelimit_service.core.model import Descriptor, Entry
from ratelimit_service.core.windows.dates import start_of

from ...api.served_api import ServedApi, serve_api
from .conftest import Operate

RULES = """
domain: d
time_zone: Europe/Berlin
descriptors:
  - key: team
    rate_limit: {unit: year, tokens_per_unit: 1_000_000_000}
    ledger: {}
    descriptors:
      - key: model
        rate_limit: {unit: year, tokens_per_unit: 1_000_000_000}
        ledger: {}
        price: {per_million: 2.50, currency: EUR}
"""

MANDATORY = {
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
}
"""The columns of every dataset. Others depend on what a provider supports."""

_decimal = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
_time = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z").fullmatch
_currency = re.compile(r"[A-Z]{3}").fullmatch
_unit = re.compile(r"(?:[1-9][0-9]* )?[A-Z][A-Za-z]+").fullmatch


def _json(text: str) -> bool:
    return all(isinstance(value, str) for value in json.loads(text).values())


FORMATS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(
        (
            *("BilledCost", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost"),
            *("ListUnitPrice", "ConsumedQuantity", "PricingQuantity"),
        ),
        _decimal,
    ),
    **dict.fromkeys(
        ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"), _time
    ),
    "BillingCurrency": _currency,
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"}.__contains__,
    "ChargeClass": {"", "Correction"}.__contains__,
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"}.__contains__,
    "ConsumedUnit": _unit,
    "PricingUnit": _unit,
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"}.__contains__,
    "ServiceCategory": "AI and Machine Learning".__eq__,
    "ServiceSubcategory": {"AI Platforms", "Bots", "Generative AI"}.__contains__,
    "Tags": _json,
}


def check(text: str) -> list[dict[str, str]]:
    """Return the rows of a dataset that meets the requirements."""
    head, *lines = csv.reader(io.StringIO(text))
    assert MANDATORY <= set(head)
    assert len(head) == len(set(head))
    assert [] == [name for name in head if not re.fullmatch(r"(?:x_)?[A-Z][A-Za-z]*", name)]
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    for row in rows:
        assert [] == [name for name, value in row.items() if not value and name != "ChargeClass"]
        assert [] == [name for name, value in row.items() if name in FORMATS and not FORMATS[name](value)]
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        assert row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            assert Decimal(row[price]) * Decimal(row["PricingQuantity"]) == Decimal(row[cost])
        assert Decimal(row["PricingQuantity"]) * 1_000_000 == Decimal(row["ConsumedQuantity"])
    return rows


def asked(*by: str, per: str = "day", keys: tuple[str, ...] = ()) -> UsageQuery:
    zone = "Europe/Berlin"
    return UsageQuery("d", by, start_of("2026-10-01", zone), start_of("2026-12-01", zone), per, zone, keys)


def written(found: list[BucketUsage], wanted: UsageQuery) -> str:
    text = io.StringIO()
    write_focus(found, wanted, text)
    return text.getvalue()


async def exported(api: ServedApi, wanted: UsageQuery) -> list[dict[str, str]]:
    url = api.client.base_url
    client = Client(server_of(f"{url.host}:{url.port}"), timeout=120)
    found = await asyncio.to_thread(lambda: list(read(client, wanted).values()))
    return check(written(found, wanted))


async def test_usage_is_exported_as_a_focus_dataset() -> None:
    """Each bucket and day has a row with its cost. A day of 25 hours is one day."""
    async with serve_api(ServedApi(files=[RULES])) as api:
        api.limiter.now = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
        api.ask("team=dba model=large", hits=1_500_001)
        api.limiter.now += 22 * 3_600
        api.ask("team=dba model=large", hits=2)
        api.limiter.ask(Descriptor((Entry(b"team", b"dba"), Entry(b"model", b"large")), 3, negative=True))
        api.ask("team=dba", hits=1_000_000_000)
        api.ask("team=dba", hits=0)
        with pytest.raises(InvalidRequest, match="choose one with --keys: team; team,model"):
            await exported(api, asked("team"))
        (plain,) = await exported(api, asked("team", keys=("team",)))
        (priced,) = await exported(api, asked("team", keys=("team", "model")))
        assert {
            "BilledCost": "3.75",
            "BillingCurrency": "EUR",
            "BillingPeriodStart": "2026-09-30T22:00:00Z",
            "BillingPeriodEnd": "2026-10-31T23:00:00Z",
            "ChargePeriodStart": "2026-10-24T22:00:00Z",
            "ChargePeriodEnd": "2026-10-25T23:00:00Z",
            "ConsumedQuantity": "1500000",
            "ConsumedUnit": "Tokens",
            "ListUnitPrice": "2.50",
            "PricingQuantity": "1.5",
            "PricingUnit": "1000000 Tokens",
            "SkuId": "large",
            "SkuMeter": "Tokens",
            "SubAccountId": "dba",
            "SubAccountType": "team",
            "Tags": '{"team": "dba", "model": "large"}',
            "x_Charged": "1500003",
            "x_Descriptor": "team=dba,model=large",
            "x_Domain": "d",
            "x_Refunded": "3",
            "x_Refused": "0",
        }.items() <= priced.items()
        assert ("0", "XXX", "1000000000", "1") == tuple(
            plain[name] for name in ("BilledCost", "BillingCurrency", "ConsumedQuantity", "x_Refused")
        )


def test_the_command_prints_the_dataset(operate: Operate) -> None:
    """For each hour. Buckets with different keys are an error that names them, and prints nothing else."""
    time = ("--from", "2020-01-01", "--to", "2100-01-01", "--per", "hour", "--time-zone", "Europe/Berlin")
    usage = ("usage", "budgets", "--by", "agent", *time, "--format", "focus")
    for agent, hits in (("a", 3_000), ("a", -400), ("b", 6_000), ("b", 0)):
        operate.charge(f"agent={agent}", hits)
    code, out, err = operate(*usage)
    assert (0, "") == (code, err)
    rows = check(out)
    sums: dict[str, list[Decimal]] = {}
    for row in rows:
        begin, end = (datetime.fromisoformat(row[f"ChargePeriod{name}"]) for name in ("Start", "End"))
        assert 3_600 == (end - begin).total_seconds()
        measured = [Decimal(row[name]) for name in ("ConsumedQuantity", "BilledCost", "x_Refused")]
        known = sums.setdefault(row["SubAccountId"], [Decimal(0)] * 3)
        known[:] = [one + more for one, more in zip(known, measured, strict=True)]
    assert {"a": [2_600, Decimal("0.0065"), 0], "b": [6_000, Decimal("0.015"), 1]} == sums
    operate.charge("spender=dba", 5)
    code, out_of_two, err = operate(*usage[:2], *usage[4:])
    assert (1, "", True) == (code, out_of_two, "choose one with --keys: agent; spender" in err)
    assert (0, out, "") == operate(*usage, "--keys", "agent")


async def test_a_row_is_exported_for_each_price() -> None:
    """A refund in a month without charges is negative."""
    entries = (("team", "dba"), ("model", "m"))
    start = start_of("2026-11-21", "Europe/Berlin")
    found = [
        BucketUsage(
            entries, "USD", {start: [0, 5, 0], start + 3_600: [7, 0, 0]}, {start: "1", start + 3_600: "2"}
        )
    ]
    rows = check(written(found, asked(per="month")))
    assert [("-0.000005", "1", "-5"), ("0.000014", "2", "7")] == [
        (row["BilledCost"], row["ListUnitPrice"], row["ConsumedQuantity"]) for row in rows
    ]
    assert {"team=dba,model=m"} == {row["SubAccountId"] for row in rows}


async def test_the_sku_is_the_entry_that_prices_name() -> None:
    """A file of prices can have another `model_key`."""
    async with serve_api(ServedApi(files=[RULES.replace("key: model", "key: llm")])) as api:
        api.prices.models = ModelPrices(b"llm", "USD", {b"large": (Step(0, "4"),)})
        api.limiter.now = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
        api.ask("team=dba llm=large", hits=1_000_000)
        (row,) = await exported(api, asked("team", keys=("team", "llm")))
        assert ("large", "large@4", "4") == (row["SkuId"], row["SkuPriceId"], row["BilledCost"])


@pytest.mark.parametrize(
    "value", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", 'a"b,c', "\\xFF", "\\x0A=1", "{}", "ü"]
)
def test_a_hostile_value_is_one_cell_and_not_a_formula(value: str) -> None:
    """It is text in the tags. A team whose name is a formula is exported."""
    start = start_of("2026-11-21", "Europe/Berlin")
    (row,) = check(
        written([BucketUsage((("team", value), ("=key", "x")), "", {start: [1, 0, 0]}, {})], asked("team"))
    )
    assert {"team": value, "=key": "x"} == json.loads(row["Tags"])
    texts = [text for name, text in row.items() if FORMATS.get(name) is not _decimal]
    assert [] == [text for text in texts if text and text[0] in "=+-@\t\r\n"]
    assert value == row["SubAccountId"].removeprefix("'")


def test_the_columns_are_in_the_order_of_their_names() -> None:
    """Our own columns come last."""
    assert sorted(COLUMNS, key=lambda name: (name.startswith("x_"), name)) == list(COLUMNS)
