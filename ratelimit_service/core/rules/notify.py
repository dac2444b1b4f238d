"""The key about events: `notify`."""

from __future__ import annotations

import re

from .fields import Fields, quoted

KEYS = ("notify",)

_MOST = 16
_EXAMPLE = "[finance, platform-chat]"
_name = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_notify(fields: Fields) -> tuple[str, ...] | None:
    """Return the names in `notify`; empty for off, and None if the key is missing."""
    if not fields.given("notify"):
        return None
    if not fields.list_or_off("notify", f"a list of receivers of events, such as {_EXAMPLE}, or off"):
        return ()
    names = fields.raw_texts("notify", _MOST, _EXAMPLE)
    for name in names:
        if not _name.fullmatch(name):
            fields.error(
                "notify",
                f"has {quoted(name)}: the name of a receiver has 1 to 64 letters, digits, dots, "
                "dashes and underscores",
            )
    return names
