"""How a descriptor's keys and values are written in the names of statistics."""

from __future__ import annotations

import re

from ..text import excerpt

_to_underscore = str.maketrans(":|", "__")
_LONGEST = 1_000
_ipv4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")


def stat_level(raw: bytes) -> str:
    """`raw` (a `key` or `key_value`) as one level of a statistic's name.

    As upstream writes it: `:` and `|` become `_`, and so do the dots of an IPv4 address, because dots part the levels.
    What upstream passes on as it came and no log or scrape could show (control characters, bytes that are not UTF-8)
    stands here as a backslash escape. A text of megabytes is cut short.
    """
    level = excerpt(raw, _LONGEST).translate(_to_underscore)
    if level.count(".") >= 3:
        level = _ipv4.sub(lambda address: address[0].replace(".", "_"), level)
    return level
