"""The size of a request: deciding on a large one delays other callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .errors import InvalidRequest
from .model import Descriptor

MOST_ENTRIES = 100
"""The entries of one descriptor, which form the name of a bucket."""


class RequestBounds(NamedTuple):
    """The most descriptors of a request, and the most entries of all its descriptors."""

    descriptors: int = 100
    entries: int = 1_000

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """Raise InvalidRequest if a request with these descriptors is too large."""
        if len(descriptors) > self.descriptors:
            raise self.too_many_descriptors(str(len(descriptors)))
        entries = 0
        for descriptor in descriptors:
            own = len(descriptor.entries)
            if own > MOST_ENTRIES:
                raise InvalidRequest(f"a descriptor may have {MOST_ENTRIES} entries, not {own}")
            entries += own
        if entries > self.entries:
            raise self.too_many_entries(str(entries))

    def too_many_descriptors(self, number: str = "more") -> InvalidRequest:
        """Return the error for a request with `number` descriptors."""
        return InvalidRequest(
            f"a request may have {self.descriptors} descriptors, not {number} (REQUEST_MAX_DESCRIPTORS)"
        )

    def too_many_entries(self, number: str = "more") -> InvalidRequest:
        """Return the error for a request with `number` entries."""
        return InvalidRequest(
            f"a request may have {self.entries} entries in all, not {number} (REQUEST_MAX_ENTRIES)"
        )


DEFAULT_BOUNDS = RequestBounds()
