"""The entries of a descriptor by which gateways bring back the holds of a check.

They are not part of a bucket: they are removed before rules are matched and keys are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..model import Entry


class HoldEntries(NamedTuple):
    """The key of the entry with an id (HOLD_ENTRY), and the entry that marks an end (HOLD_DONE_ENTRY)."""

    id_key: bytes = b""
    done: Entry | None = None

    def take_off(self, entries: Sequence[tuple[bytes, bytes]]) -> tuple[list[int], bytes | None]:
        """Return the places of such entries, and the value that they bring back: Request.returned of the
        descriptor.
        """
        places: list[int] = []
        returned: bytes | None = None
        marked = False
        for place, (key, value) in enumerate(entries):
            if key == self.id_key and key:
                places.append(place)
                returned = value or NO_ID
            elif self.done is not None and (key, value) == self.done:
                places.append(place)
                marked = True
        return places, b"" if marked and returned is None else returned


DEFAULT_ENTRIES = HoldEntries(b"hold", Entry(b"phase", b"done"))
"""Those of the default settings."""

NO_ENTRIES = HoldEntries()
"""Removes no entries."""

NO_ID = b"-"
"""The value that gateways send if the answer to the check had no id."""
