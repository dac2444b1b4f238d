"""How much one request may ask for: to decide on it, other callers wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .errors import InvalidRequest
from .model import Descriptor

MOST_ENTRIES = 100
"""Entries of one descriptor; together they are the name of a bucket."""


class RequestBounds(NamedTuple):
    """The most descriptors of a request, and the most entries of all of them together."""

    descriptors: int = 100
    entries: int = 1_000

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """Raise InvalidRequest where a request with these descriptors has too many of anything."""
        if len(descriptors) > self.descriptors:
            raise self.too_many_descriptors(str(len(descriptors)))
        entries = 0
        for descriptor in descriptors:
            here = len(descriptor.entries)
            if here > MOST_ENTRIES:
                raise InvalidRequest(f"a descriptor may have {MOST_ENTRIES} entries, not {here}")
            entries += here
        if entries > self.entries:
            raise self.too_many_entries(str(entries))

    def too_many_descriptors(self, number: str = "more") -> InvalidRequest:
        """The error for a request with so many descriptors."""
        return InvalidRequest(
            f"a request may have {self.descriptors} descriptors, not {number} (REQUEST_MAX_DESCRIPTORS)"
        )

    def too_many_entries(self, number: str = "more") -> InvalidRequest:
        """The error for a request with so many entries."""
        return InvalidRequest(
            f"a request may have {self.entries} entries in all, not {number} (REQUEST_MAX_ENTRIES)"
        )


DEFAULT_BOUNDS = RequestBounds()
