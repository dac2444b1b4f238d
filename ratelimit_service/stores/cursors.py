"""Cursors of a walk through the keys of a store. Callers send them back, and may invent them."""

from __future__ import annotations

from ..core.errors import InvalidRequest
from ..core.text import fit


def invalid_cursor(text: str) -> InvalidRequest:
    """Return the error for a position that no step of a walk has returned."""
    return InvalidRequest(f"{fit(text, 40)!r} is not a position in this store: begin again without a cursor")


def read_number(position: str, limit: int) -> int:
    """Return a position as a number below `limit`. Raises InvalidRequest."""
    if not (len(position) <= 20 and position.isascii() and position.isdecimal() and int(position) < limit):
        raise invalid_cursor(position)
    return int(position)
