"""The key `price`, and the file of prices by model: decimals as they are written."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.ledger.price import ModelPrices, amount, amount_text, plain, tariff_of, total
from ratelimit_service.core.ledger.rule import Price
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.prices import read_model_prices
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.windows.dates import start_of
from ratelimit_service.sources.yaml_text import read

FILE = """
currency: EUR
time_zone: Europe/Berlin
prices:
  - {model: gpt-5, per_million: 2.50}
  - {model: gpt-5, per_million: 2.00, from: 2026-12-01}
  - {model: gpt-*, per_million: 0.1}
  - {model: gpt-5-*, per_million: 0.3, from: "2026-11-21T10:00:00Z"}
"""


def prices(text: str) -> ModelPrices:
    return read_model_prices(read("prices.yaml", text))


def per_million(model: str, at: str, price: Price | None = None) -> str | None:
    tariff = tariff_of(price, prices(FILE), [Entry(b"team", b"dba"), Entry(b"model", model.encode())])
    return tariff.per_million_at(start_of(at, "Europe/Berlin")) if tariff is not None else None


def test_a_rule_has_the_price_as_it_is_written() -> None:
    """A float could not represent 0.1 exactly."""
    rules = (
        "{domain: d, descriptors: [{key: a, rate_limit: {unit: day, tokens_per_unit: 5}, ledger: {}, "
        "price: {per_million: 0.10, currency: USD}}]}"
    )
    rule = load([read("a.yaml", rules)]).domains[0].descriptors[0].rule
    assert rule is not None
    assert Price("0.10", "USD") == rule.price


def test_the_price_of_a_model_is_that_at_the_time_of_the_charge() -> None:
    """A price applies from a date, which begins in the time zone of the file. A name takes precedence over
    patterns, and the longest pattern over others.
    """
    assert "2.50" == per_million("gpt-5", "2026-11-30T23:59:59+01:00")
    assert "2.00" == per_million("gpt-5", "2026-12-01T00:00:00+01:00")
    assert "0.1" == per_million("gpt-4", "2026-11-01")
    assert "0.3" == per_million("gpt-5-mini", "2026-11-21T11:00:00+01:00")


def test_a_model_in_the_file_has_no_other_price() -> None:
    """Before its first price it has none. A model that is not in the file has the price of its rule."""
    rule = Price("7", "USD")
    assert per_million("gpt-5-mini", "2026-11-21T10:59:59+01:00", rule) is None
    assert "7" == per_million("other", "2026-11-21", rule)
    assert per_million("other", "2026-11-21") is None


def test_amounts_are_exact() -> None:
    """For amounts of any size, the sum of the costs is the cost of the sum."""
    random = Random(1)
    assert "0.000000000000001" == plain(amount(1, "0.000000001"))
    assert "9007199254740990990.992800745259009" == plain(amount(2**53 - 1, "999999999.999999999"))
    assert "-0.5" == plain(amount(-200_000, "2.50"))
    assert ("0", "100") == (plain(amount(0, "2.50")), plain(amount(100_000_000, "1.0")))
    for price in ("0.000000001", "999999999.999999999", "2.50", "0", "0.1", "7"):
        for number in (0, 1, -1, -200_000, 2**53 - 1, random.randrange(2**53)):
            assert plain(amount(number, price)) == amount_text(number, price)
    tokens = [random.randrange(2**53) for _ in range(1_000)]
    assert amount(sum(tokens), "123456789.123456789") == total(
        [amount(each, "123456789.123456789") for each in tokens]
    )
    assert Decimal(0) == total([])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "prices.yaml: must be a mapping"),
        ("prices: []", "prices.yaml:1: currency: must be a currency of three letters"),
        ("{currency: usd, prices: []}", "currency: must be"),
        ("{currency: USD}", "prices: must be a list"),
        ("{currency: USD, prices: [], models: []}", "unknown key 'models'"),
        ("{currency: USD, prices: [2.5]}", "prices[0]: must be a mapping"),
        ("{currency: USD, prices: [{model: a}]}", "prices[0].per_million: must be a price"),
        ("{currency: USD, prices: [{per_million: 1}]}", "prices[0].model: must be"),
        ("{currency: USD, prices: [{model: a, per_million: 1e3}]}", "prices[0].per_million: must be"),
        ("{currency: USD, prices: [{model: a, per_million: .5}]}", "prices[0].per_million: must be"),
        ("{currency: USD, prices: [{model: '*a', per_million: 1}]}", "prices[0].model: can have"),
        (
            "{currency: USD, prices: [{model: a, per_million: 1, from: soon}]}",
            "prices[0].from: 'soon' is not a date",
        ),
        ("{currency: USD, time_zone: Berlin, prices: []}", "time_zone: unknown time zone"),
        (
            "{currency: USD, prices: [{model: a, per_million: 1}, {model: a, per_million: 2}]}",
            "prices[1]: is a second price of 'a'",
        ),
        ("{currency: USD, currency: EUR, prices: []}", "twice"),
    ],
)
def test_a_mistake_in_a_file_of_prices_is_an_error(text: str, message: str) -> None:
    """It names the place, and says what would be right."""
    with pytest.raises(InvalidRules) as caught:
        prices(text)
    assert [True] == [message in str(problem) for problem in caught.value.problems]
