"""The query of a list of budgets, and the cursor of its pages.

A cursor has the place where the listed part of the store begins, and the last budget of the previous page. So
any replica can continue the list, and a budget that changes meanwhile does not move others to another page.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from ..core.amendments.target import Target
from ..core.budgets.state import State
from ..core.errors import InvalidRequest
from ..core.matching import keys
from ..core.model import Entry

MOST_LISTED: Final = 1_000
"""Budgets of one page."""

_LONGEST_CURSOR = 8_192

SORTS = ("used", "-used", "name", "reset")


class Row(NamedTuple):
    """The values of a budget for sorting and filtering; each page reads the rest again."""

    share: float
    urgency: int
    end: int
    domain: str
    bucket: str
    entries: tuple[str, ...]
    """The texts of the entries in the key (matching/buckets.py)."""
    strays: tuple[str, ...] = ()
    """The keys of its counters, if no rule is known for them."""


class Query(NamedTuple):
    """Which budgets are listed, in which order."""

    domain: str = ""
    key: bytes = b""
    """Only buckets that have an entry with this key."""
    prefix: bytes = b""
    """Only buckets with a value (of `key`, if that is given) that begins with this."""
    value: bytes | None = None
    """Only buckets with exactly this value (of `key`, if that is given)."""
    min_used: float = 0.0
    """The smallest share of the limit that is used: 0.8 is 80 %."""
    state: str = ""
    sort: str = "-used"
    limit: int = 50
    target: Target | None = None
    """Only buckets that this target matches."""

    def check(self) -> None:
        """Raise InvalidRequest for invalid values."""
        if self.state and self.state not in [state.value for state in State]:
            raise InvalidRequest(f"a state is one of {', '.join(state.value for state in State)}")
        if self.sort not in SORTS:
            raise InvalidRequest(f"budgets are sorted by {', '.join(SORTS)}")
        if not 1 <= self.limit <= MOST_LISTED:
            raise InvalidRequest(f"a page has 1 to {MOST_LISTED} budgets, not {self.limit}")
        if not (math.isfinite(self.min_used) and self.min_used >= 0):
            raise InvalidRequest("the smallest share used is a number of at least 0, such as 0.8 for 80 %")
        if self.target is not None and self.target.domain != self.domain:
            raise InvalidRequest("the target must be in the domain that is listed")
        if self.value is not None and self.prefix:
            raise InvalidRequest("give a value or the beginning of one, not both")

    @property
    def filter(self) -> tuple[object, ...]:
        """Return the values that select the buckets of a sweep; each page has its own order."""
        return (*self[:6], self.target)

    @property
    def part(self) -> str:
        """Return a text that the keys of all matching counters contain; empty for none."""
        key = keys.escape(self.key) if self.key else ""
        begin = self.prefix if self.value is None else self.value
        if b"*" in begin or (self.value is None and len(begin) > keys.LONGEST):
            begin = b""  # in the key of a bucket that values share, a pattern stands unescaped
        return f"{key}={keys.escape(begin)}" if key or begin else ""

    def has(self, entries: tuple[Entry, ...]) -> bool:
        """Return whether it matches a bucket with these entries."""
        if self.target is not None and not self.target.matches(entries):
            return False
        if not self.key and not self.prefix and self.value is None:
            return True
        for key, value in entries:
            if self.key and key != self.key:
                continue
            if value.startswith(self.prefix) if self.value is None else value == self.value:
                return True
        return False

    def wants(self, row: Row) -> bool:
        """Return whether it matches a budget with this state and use."""
        if self.state and State(self.state).urgency != row.urgency:
            return False
        return row.share >= self.min_used

    @property
    def order(self) -> Callable[[Row], tuple[float, str]]:
        """Return the function that gives the sort key of a row; no two rows have the same key."""
        return _ORDERS[self.sort]


_BLOCKED = State.BLOCKED.urgency
_BLOCKED_FIRST = -(2.0**60)
"""Before every share that a counter can have."""

_ORDERS: dict[str, Callable[[Row], tuple[float, str]]] = {
    "used": lambda row: (row.share, row.bucket),
    "-used": lambda row: (_BLOCKED_FIRST if row.urgency == _BLOCKED else -row.share, row.bucket),
    "name": lambda row: (0.0, row.bucket),
    "reset": lambda row: (float(row.end), row.bucket),
}


class Cursor(NamedTuple):
    """Where a page begins: the `position` in the store, and the sort key of the last row before it (None: the
    first page).
    """

    position: str = ""
    after: tuple[float, str] | None = None

    def __str__(self) -> str:
        after = "" if self.after is None else f"\n{self.after[0]!r}\n{self.after[1]}"
        data = f"{self.position}{after}".encode("utf-8", "surrogateescape")
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """Parse a cursor; an empty text is the first page. Raises InvalidRequest."""
    if not text:
        return Cursor()
    try:
        if len(text) > _LONGEST_CURSOR:
            raise ValueError("too long")
        data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        position, *after = data.decode("utf-8", "surrogateescape").split("\n", 2)
        if not after:
            return Cursor(position)
        number, name = after
        if math.isnan(float(number)):
            raise ValueError("no number")
        return Cursor(position, (float(number), name))
    except ValueError:
        raise InvalidRequest("this is no cursor of a list of budgets: begin again without one") from None
