"""How a descriptor's keys and values are written in the names of statistics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..text import excerpt

_LONGEST, _LONGEST_BELOW = 1_000, 128
"""Bytes of a level that are shown: of the first two, which metrics have as labels, and of those below them."""

_ipv4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def stat_levels(raws: Iterable[bytes]) -> tuple[str, ...]:
    """The levels of a statistic whose values came with a request."""
    return tuple(
        [stat_level(raw, _LONGEST if place < 2 else _LONGEST_BELOW) for place, raw in enumerate(raws)]
    )


def stat_level(raw: bytes, longest: int = _LONGEST) -> str:
    """`raw` (a `key` or `key_value`) as one level of a statistic's name.

    As upstream writes it: `:` and `|` become `_`, and so do the dots of an IPv4 address, because dots part the levels.
    What upstream passes on as it came and no log or scrape could show (control characters, bytes that are not UTF-8)
    stands here as a backslash escape. A text of megabytes is cut short.
    """
    level = excerpt(raw, longest).replace(":", "_").replace("|", "_")
    if level.count(".") >= 3:
        level = _ipv4.sub(lambda address: address[0].replace(".", "_"), level)
    return level
