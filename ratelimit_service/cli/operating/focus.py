"""Usage as a FOCUS dataset: the columns of version 1.2 of the FinOps Open Cost and Usage Specification, as
CSV.

A row is for one bucket and one period at one price. The specification has no columns for tokens, so they are
the consumed quantity, in the unit `Tokens`, and are priced by the million. Without a price, costs are 0 in
the currency XXX, which ISO 4217 has for no currency, because the columns must not be empty.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple, TextIO

from ...core.budgets.descriptor_text import bytes_of, descriptor_text
from ...core.errors import InvalidRequest
from ...core.ledger.price import amount, plain
from ...core.model import Calendar, Entry, Unit
from ...core.rfc3339 import moment
from ...core.windows import calendars
from . import formatting
from .ledgers import BucketUsage, UsageQuery, cell, periods, selected

NO_CURRENCY = "XXX"
PROVIDER = "ratelimit-service"
UNIT = "Tokens"
PRICED_BY = "1000000 Tokens"
COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
    "x_Charged",
    "x_Descriptor",
    "x_Domain",
    "x_Refunded",
    "x_Refused",
)


class _Of(NamedTuple):
    """The key of a row, in the order of the rows."""

    start: int
    end: int
    descriptor: str
    entries: tuple[tuple[str, str], ...]
    currency: str
    per_million: str
    model_key: str


def write_focus(found: Iterable[BucketUsage], asked: UsageQuery, to: TextIO) -> int:
    """Write a dataset, and return how many rows it has.

    Raises InvalidRequest for buckets with different keys: tools sum a dataset, and a request may be charged
    to several of them.
    """
    chosen = [ledgered for ledgered in found if selected(ledgered, asked) and ledgered.spent]
    kinds = sorted({",".join([key for key, _ in ledgered.entries]) for ledgered in chosen})
    if len(kinds) > 1:
        raise InvalidRequest(
            f"the ledgers have buckets with different keys, and a request may be charged to several of them: "
            f"choose one with --keys: {'; '.join(map(formatting.text, kinds))}"
        )
    writer = csv.writer(to)
    writer.writerow(COLUMNS)
    number = 0
    for row in rows(chosen, asked):
        writer.writerow([row[name] for name in COLUMNS])
        number += 1
    return number


def rows(found: Iterable[BucketUsage], asked: UsageQuery) -> Iterator[dict[str, str]]:
    """Yield the rows of these buckets, by period and descriptor."""
    sums: dict[_Of, list[int]] = {}
    period = periods(asked)
    for ledgered in found:
        descriptor = descriptor_text(
            tuple([Entry(bytes_of(key), bytes_of(value)) for key, value in ledgered.entries])
        )
        for start, kinds in ledgered.spent.items():
            price = ledgered.prices.get(start, "")
            currency = ledgered.currency if price else ""
            of = _Of(*period(start), descriptor, ledgered.entries, currency, price, ledgered.model_key)
            sum_of = sums.setdefault(of, [0, 0, 0])
            for place, value in enumerate(kinds):
                sum_of[place] += value
    for of in sorted(sums):
        yield _row(of, sums[of], asked)


def _row(of: _Of, kinds: Sequence[int], asked: UsageQuery) -> dict[str, str]:
    charged, refunded, refused = kinds
    tokens = charged - refunded
    price = of.per_million or "0"
    cost = plain(amount(tokens, price))
    own = dict(of.entries)
    month = calendars.bounds(Unit.MONTH, 1, Calendar(asked.zone), of.start)
    sku = cell(own.get(of.model_key) or "tokens")
    account = cell(",".join([own[key] for key in asked.by]) or of.descriptor)
    return {
        "BilledCost": cost,
        "BillingAccountId": cell(asked.domain),
        "BillingAccountName": cell(asked.domain),
        "BillingCurrency": of.currency or NO_CURRENCY,
        "BillingPeriodStart": moment(month[0]),
        "BillingPeriodEnd": moment(month[1]),
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": f"Tokens of {of.descriptor}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": moment(of.start),
        "ChargePeriodEnd": moment(of.end),
        "ConsumedQuantity": str(tokens),
        "ConsumedUnit": UNIT,
        "ContractedCost": cost,
        "ContractedUnitPrice": price,
        "EffectiveCost": cost,
        "InvoiceIssuerName": PROVIDER,
        "ListCost": cost,
        "ListUnitPrice": price,
        "PricingCategory": "Standard",
        "PricingQuantity": plain(Decimal(tokens).scaleb(-6)),
        "PricingUnit": PRICED_BY,
        "ProviderName": PROVIDER,
        "PublisherName": PROVIDER,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Large language models",
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuMeter": UNIT,
        "SkuPriceId": f"{sku}@{price}",
        "SubAccountId": account,
        "SubAccountName": account,
        "SubAccountType": cell(",".join(asked.by) or "descriptor"),
        "Tags": json.dumps(own, ensure_ascii=False),
        "x_Charged": str(charged),
        "x_Descriptor": cell(of.descriptor),
        "x_Domain": cell(asked.domain),
        "x_Refunded": str(refunded),
        "x_Refused": str(refused),
    }
