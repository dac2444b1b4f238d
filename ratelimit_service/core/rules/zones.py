"""The names of the time zones, and the likely one for a wrong name."""

from __future__ import annotations

import difflib
from functools import cache
from zoneinfo import available_timezones

_NOT_A_PLACE = {"Factory", "localtime"}
"""Files in the database that are no zones, or differ between machines."""

_LONGEST_NAME = 80


def is_zone(name: str) -> bool:
    """Return whether `name` is in the time zone database."""
    return name in _names()


def nearest_zone(text: str) -> str | None:
    """Return the zone that `text` likely means, by its whole name or by its city."""
    wanted = text.lower().replace(" ", "_")
    if len(wanted) > _LONGEST_NAME:
        return None
    spellings = _spellings()
    near = difflib.get_close_matches(wanted, spellings, 1, cutoff=0.8)
    return spellings[near[0]] if near else None


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones() - _NOT_A_PLACE)


@cache
def _spellings() -> dict[str, str]:
    # CEST must not become EST, which is in America, nor GMT+2 become Etc/GMT+2, which is west of Greenwich.
    names = sorted([name for name in _names() if "/" in name and not name.startswith("Etc/")])
    cities = {name.rpartition("/")[2].lower(): name for name in names}
    return {**cities, **{name.lower(): name for name in [*names, "UTC"]}}
