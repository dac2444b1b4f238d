"""What a list of budgets is asked for, and the cursor between two of its pages.

A cursor says where the part of the store begins that is listed, and the last budget of the page before. So any replica
can go on from it, and a budget that changes meanwhile moves no other.
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
    """What is kept of a budget to sort and choose by; the page reads the rest anew."""

    share: float
    urgency: int
    end: int
    domain: str
    bucket: str
    entries: tuple[str, ...]
    """The texts of the entries in the key (matching/buckets.py)."""
    strays: tuple[str, ...] = ()
    """The keys of its counters, where no rule is known for them."""


class Query(NamedTuple):
    """Which budgets are listed, in which order."""

    domain: str = ""
    key: bytes = b""
    """Only buckets that have an entry with this key."""
    prefix: bytes = b""
    """Only those in which a value (that of `key`, where it is given) begins so."""
    value: bytes | None = None
    """Only those in which a value (that of `key`, where it is given) is this one."""
    min_used: float = 0.0
    """The smallest share of the limit that is used: 0.8 is 80 %."""
    state: str = ""
    sort: str = "-used"
    limit: int = 50
    target: Target | None = None
    """Only buckets that an amendment with this target is for."""

    def check(self) -> None:
        """Raise InvalidRequest where it asks for nothing that there can be."""
        if self.state and self.state not in [state.value for state in State]:
            raise InvalidRequest(f"a state is {', '.join(state.value for state in State)}")
        if self.sort not in SORTS:
            raise InvalidRequest(f"budgets are sorted by {', '.join(SORTS)}")
        if not 1 <= self.limit <= MOST_LISTED:
            raise InvalidRequest(f"a page has 1 to {MOST_LISTED} budgets, not {self.limit}")
        if not (math.isfinite(self.min_used) and self.min_used >= 0):
            raise InvalidRequest("the smallest share used is a number of at least 0, such as 0.8 for 80 %")
        if self.target is not None and self.target.domain != self.domain:
            raise InvalidRequest("a target is in the domain that is listed")
        if self.value is not None and self.prefix:
            raise InvalidRequest("give a value or the beginning of one, not both")

    @property
    def filter(self) -> tuple[object, ...]:
        """Return what decides which buckets a sweep keeps; the order is decided for each page."""
        return (*self[:6], self.target)

    @property
    def part(self) -> str:
        """Return a text that the key of every counter has whose bucket it is for; empty for none."""
        key = keys.escape(self.key) if self.key else ""
        begin = self.prefix if self.value is None else self.value
        if b"*" in begin or (self.value is None and len(begin) > keys.LONGEST):
            begin = b""  # in the key of a bucket that values share, a pattern stands unescaped
        return f"{key}={keys.escape(begin)}" if key or begin else ""

    def has(self, entries: tuple[Entry, ...]) -> bool:
        """Return whether it is for a bucket with these entries."""
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
        """Return whether it is for a budget in this state."""
        if self.state and State(self.state).urgency != row.urgency:
            return False
        return row.share >= self.min_used

    @property
    def order(self) -> Callable[[Row], tuple[float, str]]:
        """Return the key that rows are sorted by; no two of them have the same."""
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
    """Where a page begins: the `position` in the store, and the order of the last row before it (None: the first page)."""

    position: str = ""
    after: tuple[float, str] | None = None

    def __str__(self) -> str:
        after = "" if self.after is None else f"\n{self.after[0]!r}\n{self.after[1]}"
        data = f"{self.position}{after}".encode("utf-8", "surrogateescape")
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """Return the cursor that a text says; empty for the first page. Raises InvalidRequest."""
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
