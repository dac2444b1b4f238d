"""What decides whether a store counts a hit."""

from __future__ import annotations

from typing import Final


class Gate:
    """Whether the verdict on a request decides if its hits are counted: flags that are added up.

    A request without a hit that yields or holds is counted in full, whatever its verdict. The flags are plain
    integers: every hit has some, and the flags of `enum` are many times slower.
    """

    NONE: Final = 0
    REFUSES: Final = 1
    """The request counts as refused if this hit is over its limit."""
    YIELDS: Final = 2
    """This hit is not counted if it has room itself and another hit refuses the request."""
    HOLDS: Final = 4
    """This hit is not counted if any hit refuses the request."""
    BUDGET: Final = 8
    """This hit is over once the limit is used up; otherwise, once this hit would exceed the limit."""
    ASIDE: Final = 16
    """This hit is a HoldHit (holds/hit.py), whose key is not a counter."""
    LEDGER: Final = 32
    """This hit writes an entry of a ledger as well (Hit.into)."""
    ENTRY: Final = 64
    """This hit writes its entry and nothing else: its key is not a counter."""


HELD_BACK: Final = Gate.YIELDS | Gate.HOLDS | Gate.ASIDE
"""The gates that make a store read the whole group before it counts a hit of it."""
