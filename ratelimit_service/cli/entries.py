"""Descriptors as they are written on the command line."""

from __future__ import annotations

import re

from ..core.errors import InvalidRequest
from ..core.model import Entry


def entries_of(text: str) -> tuple[Entry, ...]:
    r"""Read entries: `team=dba,model=gpt-x`; `\,` is a comma in a value, `\\` a backslash.

    Raises InvalidRequest.
    """
    pairs = [""]
    for char in re.findall(r"\\[\\,]|.", text, re.DOTALL):
        if char == ",":
            pairs.append("")
        else:
            pairs[-1] += char[-1]
    entries = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"a descriptor is key=value,key=value; {pair!r} is not key=value")
        entries.append(
            Entry(key.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
        )
    return tuple(entries)
