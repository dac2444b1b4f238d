"""The ledger of a rule."""

from __future__ import annotations

from typing import Final, NamedTuple

_DAY: Final = 86_400

DEFAULT_KEEP: Final = 400 * _DAY
"""The default of `keep`, in seconds: a year, and a month to account for it."""

BOOKS: Final = {"hour": _DAY, "day": 31 * _DAY}
"""The seconds that one book covers at most, by the length of its entries (entries.py)."""


class Price(NamedTuple):
    """The price of a million tokens, as text with a point (`2.50`), and its currency (ISO 4217)."""

    per_million: str
    currency: str


class LedgerRule(NamedTuple):
    """The ledger of a rule: entries for each `hour` or `day` of a time zone, which are kept for `keep`
    seconds.
    """

    keep: int = DEFAULT_KEEP
    by: str = "hour"
    zone: str = "UTC"

    @property
    def life(self) -> int:
        """The time to live of a book, which begins with its first entry, so that the last one is kept as
        well.
        """
        return self.keep + BOOKS[self.by]
