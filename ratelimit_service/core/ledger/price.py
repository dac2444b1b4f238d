"""What tokens cost: exact decimals, computed when a ledger is read and never stored.

amount(200_000, "2.50")                                    Decimal("0.5")
tariff_of(price, models, entries).per_million_at(start)    "2.50", the price of the hour from `start` on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from functools import lru_cache
from typing import Final, NamedTuple

from ..model import Entry
from .rule import Price

_EXACT: Final = Context(prec=80)
"""Amounts have at most 16 digits of tokens and 18 of a price, so products and their sums are exact."""

_UNITS: Final = 10**15
"""Tokens times a price in units of 10^-9 for a million of them are in units of 10^-15."""

ALWAYS: Final = -(2**63)
"""The moment from which a price without a date holds."""


class Step(NamedTuple):
    """A price that holds from a moment on, in seconds since 1970."""

    since: int
    per_million: str


class Tariff(NamedTuple):
    """The prices of one bucket, by their beginnings in ascending order. It has one currency."""

    currency: str
    steps: Sequence[Step]

    def per_million_at(self, start: int) -> str | None:
        """Return the price for what began at `start`; None before the first one."""
        found = None
        for step in self.steps:
            if step.since > start:
                break
            found = step.per_million
        return found


class ModelPrices(NamedTuple):
    """Prices by model, from a file. `key` is the key of the entry whose value is the model.

    `patterns` are the beginnings of names, the longest first.
    """

    key: bytes = b"model"
    currency: str = ""
    exact: Mapping[bytes, Sequence[Step]] = {}
    patterns: Sequence[tuple[bytes, Sequence[Step]]] = ()

    def of(self, entries: Sequence[Entry]) -> Tariff | None:
        """Return the prices of the model among the entries; None where there is none."""
        for entry in entries:
            if entry.key == self.key:
                steps = self.exact.get(entry.value)
                if steps is None:
                    steps = next(
                        (each for first, each in self.patterns if entry.value.startswith(first)), None
                    )
                if steps is not None:
                    return Tariff(self.currency, steps)
        return None


NO_PRICES: Final = ModelPrices()


def tariff_of(price: Price | None, models: ModelPrices, entries: Sequence[Entry]) -> Tariff | None:
    """Return the prices of a bucket: those of its model, or else the price of its rule; None for neither."""
    found = models.of(entries)
    if found is None and price is not None:
        return Tariff(price.currency, (Step(ALWAYS, price.per_million),))
    return found


def amount(tokens: int, per_million: str) -> Decimal:
    """Return what tokens cost, exactly; tokens below 0 were given back."""
    return _EXACT.scaleb(_EXACT.multiply(Decimal(tokens), Decimal(per_million)), -6)


def amount_text(tokens: int, per_million: str) -> str:
    """Return the same as text (plain), in a fraction of the time: a page of usage has thousands."""
    whole, part = divmod(abs(tokens) * _scaled(per_million), _UNITS)
    text = f"{whole}.{part:015}".rstrip("0").rstrip(".")
    return f"-{text}" if tokens < 0 and text != "0" else text


@lru_cache(maxsize=10_000)
def _scaled(per_million: str) -> int:
    whole, _, part = per_million.partition(".")
    return int(whole + part.ljust(9, "0"))


def total(amounts: Sequence[Decimal]) -> Decimal:
    """Return the exact sum of amounts."""
    found = Decimal(0)
    for each in amounts:
        found = _EXACT.add(found, each)
    return found


def plain(value: Decimal) -> str:
    """Return a decimal as digits with a point, without an exponent and without zeros at its end."""
    text = f"{value or Decimal(0):f}"  # not "-0", what refunded tokens without a cost would be
    return text.rstrip("0").rstrip(".") if "." in text else text
