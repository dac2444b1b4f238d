"""The holds of a rule."""

from __future__ import annotations

from typing import Final, NamedTuple

DEFAULT_LIFE: Final = 60
"""The default of `hold_ttl`, in seconds."""

DEFAULT_MOST: Final = 0.5
"""The default of `hold_max`."""

STRICTNESS: Final = {"mean": 0.0, "p90": 1.2816, "p99": 2.3263}
"""The standard deviations above the mean charge, by `hold_strictness`."""


class HoldRule(NamedTuple):
    """The holds of a rule."""

    fixed: int = 0
    """The tokens of a hold; 0 to learn them from the charges of the bucket (`hold: auto`)."""
    deviations: float = 0.0
    life: int = DEFAULT_LIFE
    """The seconds after which a hold expires."""
    most: float = DEFAULT_MOST
    """The largest hold, as a share of the smallest limit."""
