"""Keys and values of descriptors as levels of the names of statistics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..text import excerpt

_LONGEST, _LONGEST_BELOW = 1_000, 128
"""The bytes of a level that are shown: of the first two, which are labels of metrics, and of those below."""

_ipv4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def stat_levels(raws: Iterable[bytes]) -> tuple[str, ...]:
    """Return the levels of a statistic whose values come from a request."""
    return tuple(
        [stat_level(raw, _LONGEST if depth < 2 else _LONGEST_BELOW) for depth, raw in enumerate(raws)]
    )


def stat_level(raw: bytes, longest: int = _LONGEST) -> str:
    """Return `raw` (a `key` or `key_value`) as one level of the name of a statistic.

    As with upstream, `:` and `|` become `_`, and so do the dots of an IPv4 address, because dots separate
    levels. Unlike upstream, control characters and bytes that are not UTF-8 become backslash escapes, and a
    long text is cut short.
    """
    level = excerpt(raw, longest).replace(":", "_").replace("|", "_")
    if level.count(".") >= 3:
        level = _ipv4.sub(lambda address: address[0].replace(".", "_"), level)
    return level
