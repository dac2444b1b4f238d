"""The key about events: `notify`."""

from __future__ import annotations

import re

from .fields import Fields, describe, quoted

KEYS = ("notify",)

_MOST = 16
_EXAMPLE = "[finance, platform-chat]"
_name = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_notify(fields: Fields) -> tuple[str, ...] | None:
    """Return the names in `notify`; empty for off, and None if the key is missing."""
    if not fields.given("notify"):
        return None
    if not fields.is_list("notify"):
        wanted = f"a list of receivers of events, such as {_EXAMPLE}, or off"
        node = fields.scalar("notify", wanted)
        if node is not None and node.text.lower() not in ("off", "false"):
            fields.error("notify", f"must be {wanted}, not {describe(node)}")
        return ()
    names = fields.raw_texts("notify", _MOST, _EXAMPLE)
    for name in names:
        if not _name.fullmatch(name):
            fields.error(
                "notify",
                f"has {quoted(name)}: the name of a receiver has 1 to 64 letters, digits, dots, dashes and underscores",
            )
    return names
