"""Names of time zones: which there are, and which one was likely meant."""

from __future__ import annotations

import difflib
from functools import cache
from zoneinfo import available_timezones

_NOT_A_PLACE = {"Factory", "localtime"}
"""Files in the database that mean no zone, or on each machine another one."""

_LONGEST_NAME = 80


def is_zone(name: str) -> bool:
    """Whether `name` is in the time zone database."""
    return name in _names()


def nearest_zone(text: str) -> str | None:
    """The zone that `text` is likely meant to be, by its whole name or by its city."""
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
    # Not CEST -> EST, half a world away, and not GMT+2 -> Etc/GMT+2, which is west.
    names = sorted([name for name in _names() if "/" in name and not name.startswith("Etc/")])
    cities = {name.rpartition("/")[2].lower(): name for name in names}
    return {**cities, **{name.lower(): name for name in [*names, "UTC"]}}
