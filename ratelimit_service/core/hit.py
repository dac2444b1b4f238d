"""What one request asks of one counter."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

from .gates import Gate
from .ledger.entries import Record

_Hit = TypeVar("_Hit", bound="Hit")


class Hit:
    """A charge (`amount` > 0), a check (0) or a refund (< 0) of one counter.

    A refund never takes a counter below 0. A counter that is created, or has no time to live, gets `ttl`
    seconds, at least 1. `limit` matters only with a `gate`. Plans share their hits, so a hit never changes.
    """

    __slots__ = ("amount", "gate", "into", "key", "limit", "ttl")

    def __init__(
        self,
        key: str,
        amount: int,
        *,
        ttl: int,
        limit: int = 0,
        gate: int = Gate.NONE,
        into: Record | None = None,
    ) -> None:
        self.key = key
        self.amount = amount
        self.ttl = ttl
        self.limit = limit
        self.gate = gate
        self.into = into
        """Where the step that counts it also writes an entry of a ledger (with Gate.LEDGER). The entry has
        what the hit did: nothing if it was held back or has failed, and for a refund what the counter had."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hit) and type(self) is type(other) and self.values() == other.values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.values()}"

    def values(self) -> tuple[object, ...]:
        """Return the values of all fields."""
        return (self.key, self.amount, self.ttl, self.limit, self.gate, self.into)

    def changed(self: _Hit, **fields: object) -> _Hit:
        """Return a copy with other values of some fields."""
        hit = copy(self)
        for name, value in fields.items():
            setattr(hit, name, value)
        return hit

    def is_over(self, before: int) -> bool:
        """Return whether a counter that holds `before` has no room for this hit. A refund always has room."""
        if self.amount < 0:
            return False
        return before >= self.limit if self.gate & Gate.BUDGET else before + self.amount > self.limit
