"""Prices: the key `price` of a rule, and the file of prices by model.

model_key: model                  the entry with the model; this is the default
currency: USD
time_zone: Europe/Berlin          in which the dates begin; UTC by default
prices:
  - {model: gpt-5, per_million: 2.50}
  - {model: gpt-5, per_million: 2.00, from: 2026-12-01}
  - {model: claude-*, per_million: 3}
"""

from __future__ import annotations

import re

from ..errors import InvalidRequest, InvalidRules, Problem
from ..ledger.price import ALWAYS, ModelPrices, Step
from ..ledger.rule import Price
from ..windows.dates import start_of
from .document import Document, MappingNode, Node, ScalarNode, SequenceNode
from .domain import as_bytes
from .fields import Fields, describe, quoted
from .vocabulary import Level
from .zones import is_zone

_FILE_KEYS = ("model_key", "currency", "time_zone", "prices")
_PRICE_KEYS = ("model", "per_million", "from")
_MOST_PROBLEMS = 20

_AMOUNT = "a price of a million tokens such as 2.50, with at most 9 digits before and 9 after the point"
_CURRENCY = "a currency of three letters, such as USD"
_amount = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?").fullmatch
_currency = re.compile(r"[A-Z]{3}").fullmatch


def read_price(fields: Fields) -> Price | None:
    """Return the price of a rule; None for none."""
    own = fields.mapping("price", Level.PRICE)
    if own is None:
        return None
    texts = []
    for name, matches, wanted in (("per_million", _amount, _AMOUNT), ("currency", _currency, _CURRENCY)):
        node = own.scalar(name, wanted) if own.given(name) else None
        if node is None and not own.given(name):
            own.missing(name, f"is missing: it must be {wanted}")
        elif node is not None and not matches(node.text):
            own.error(name, f"must be {wanted}, not {describe(node)}")
        texts.append(node.text if node is not None else "")
    if not fields.given("ledger"):
        fields.warn("price", "has no effect without ledger: add ledger: {}, or remove it")
    return Price(*texts)


def read_model_prices(document: Document) -> ModelPrices:
    """Return the prices in a file. Raises InvalidRules with everything that is wrong with it."""
    reader = _Reader(document.file)
    prices = reader.prices(document.root)
    if reader.problems:
        raise InvalidRules(reader.problems[:_MOST_PROBLEMS])
    return prices


class _Reader:
    """Reads one file of prices, and collects its problems."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.problems: list[Problem] = []

    def _error(self, node: Node | None, path: str, message: str) -> None:
        self.problems.append(Problem(self._file, node.line if node is not None else 0, path, message))

    def prices(self, root: Node | None) -> ModelPrices:
        """Return the valid prices in the file."""
        if not isinstance(root, MappingNode):
            self._error(root, "", "must be a mapping with currency and prices")
            return ModelPrices()
        given = self._given(root, _FILE_KEYS, "")
        key = self._text(root, given, "model_key", "", "the key of an entry, such as model") or "model"
        currency = self._text(root, given, "currency", "", _CURRENCY)
        if "currency" not in given or (currency is not None and not _currency(currency)):
            self._error(given.get("currency", root), "currency", f"must be {_CURRENCY}")
        zone = (
            self._text(root, given, "time_zone", "", "the name of a time zone, such as Europe/Berlin")
            or "UTC"
        )
        if not is_zone(zone):
            self._error(given["time_zone"], "time_zone", f"unknown time zone {quoted(zone)}")
            zone = "UTC"
        items = given.get("prices")
        if not isinstance(items, SequenceNode):
            self._error(items or root, "prices", "must be a list such as [{model: gpt-5, per_million: 2.50}]")
            items = SequenceNode(0)
        steps: dict[str, dict[int, str]] = {}
        for place, item in enumerate(items.items):
            self._price(item, f"prices[{place}]", zone, steps)
        exact, patterns = {}, {}
        for model, of_model in steps.items():
            found = tuple([Step(*each) for each in sorted(of_model.items())])
            if model.endswith("*"):
                patterns[as_bytes(model[:-1])] = found
            else:
                exact[as_bytes(model)] = found
        ordered = sorted(patterns.items(), key=lambda each: -len(each[0]))
        return ModelPrices(as_bytes(key), currency or "", exact, tuple(ordered))

    def _price(self, item: Node, path: str, zone: str, steps: dict[str, dict[int, str]]) -> None:
        if not isinstance(item, MappingNode):
            self._error(item, path, f"must be a mapping with model and per_million, not {describe(item)}")
            return
        given = self._given(item, _PRICE_KEYS, path)
        model = self._text(item, given, "model", path, "the name of a model", needed=True)
        price = self._text(item, given, "per_million", path, _AMOUNT, needed=True)
        if price is not None and not _amount(price):
            self._error(given["per_million"], f"{path}.per_million", f"must be {_AMOUNT}")
        if model is not None and "*" in model[:-1]:
            self._error(given["model"], f"{path}.model", "can have a '*' at its end only")
        since = ALWAYS
        if "from" in given:
            text = self._text(item, given, "from", path, "a date such as 2026-12-01") or ""
            try:
                since = start_of(text, zone)
            except InvalidRequest as error:
                self._error(given["from"], f"{path}.from", str(error))
        if model is None or price is None:
            return
        of_model = steps.setdefault(model, {})
        if since in of_model:
            self._error(item, path, f"is a second price of {quoted(model)} from the same time on")
        of_model[since] = price

    def _given(self, mapping: MappingNode, known: tuple[str, ...], path: str) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key, node in mapping.items:
            if key.text not in known:
                self._error(
                    key, path, f"unknown key {quoted(key.text)}: the keys here are {', '.join(known)}"
                )
            else:
                found[key.text] = node
        for key in mapping.repeated:
            self._error(key, path, f"has the key {quoted(key.text)} twice")
        return found

    def _text(
        self,
        mapping: MappingNode,
        given: dict[str, Node],
        name: str,
        path: str,
        wanted: str,
        *,
        needed: bool = False,
    ) -> str | None:
        """Return the text of a key as it is written; None where it has none, or is missing."""
        node = given.get(name)
        if isinstance(node, ScalarNode) and node.text:
            return node.text
        if node is not None or needed:
            self._error(node or mapping, f"{path}.{name}" if path else name, f"must be {wanted}")
        return None
