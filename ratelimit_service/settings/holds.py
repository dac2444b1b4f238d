"""The settings of holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.holds.entries import HoldEntries
from ..core.model import Entry
from .field import reader, setting

HOLDS = "Refusals"
"""The section of the settings of refusals."""


def read_key(text: str) -> str:
    """Return the key of an entry."""
    return text.strip()


def read_entry(text: str) -> tuple[str, str] | None:
    """Return an entry, written as `key=value`; None for an empty text."""
    key, equals, value = text.strip().partition("=")
    if not text.strip():
        return None
    if not (key and equals and value):
        raise ValueError("must be an entry, such as phase=done, or empty")
    return key, value


@dataclass(frozen=True, kw_only=True)
class HoldSettings:
    """The fields of `table.Settings` for holds (docs/holds.md)."""

    hold_entry: Annotated[str, reader(read_key)] = setting(
        HOLDS,
        "hold",
        "The key of the entry in which a gateway returns the id of a hold. It is removed from every "
        "descriptor before rules are matched; empty: no entry is removed. Ours.",
    )
    hold_done_entry: Annotated[tuple[str, str] | None, reader(read_entry)] = setting(
        HOLDS,
        "phase=done",
        "The entry that marks the end of a request, for gateways that return no ids. It is removed as well; "
        "empty: no entry is removed. Ours.",
    )

    @property
    def hold_entries(self) -> HoldEntries:
        """The entries with which gateways return the ids of holds."""
        done = self.hold_done_entry
        return HoldEntries(
            self.hold_entry.encode(),
            Entry(done[0].encode(), done[1].encode()) if done is not None else None,
        )
