"""One request with both answers, and what is known beside them when they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest
from .answers import Answer, Difference

Bucket = tuple[str, tuple[tuple[bytes, bytes], ...]]
"""A domain and the entries of a descriptor."""


def bucket_of(domain: str, descriptor: RateLimitDescriptor) -> Bucket:
    """What a descriptor counts in, as far as a caller can tell."""
    return domain, tuple((entry.key, entry.value) for entry in descriptor.entries)


def hits_of(request: RateLimitRequest, descriptor: RateLimitDescriptor) -> int:
    """What a descriptor costs, below 0 for a refund."""
    if descriptor.HasField("hits_addend"):
        hits = descriptor.hits_addend.value
    else:
        hits = request.hits_addend or 1
    return -hits if descriptor.is_negative_hits else hits


@dataclass(slots=True)
class Standing:
    """How far the two services were apart in one bucket when they last answered about it.

    `gap` is what the first has left, less what the second has; `reason` is why, and `since` the number of the
    request that showed it.
    """

    gap: int = 0
    reason: str = ""
    since: int = 0
    refunded: bool = False


@dataclass(slots=True)
class Exchange:
    """One request, and what both services have answered. `number` counts requests from 1."""

    number: int
    request: RateLimitRequest
    theirs: Answer
    ours: Answer
    explanation: Mapping[str, Any] = field(default_factory=dict)
    """What ours has explained."""
    found: list[Difference] = field(default_factory=list)
    known: list[Standing | None] = field(default_factory=list)
    """What was known of the bucket of each descriptor before; None where nothing was."""
    shared: list[bool] = field(default_factory=list)
    """Whether the counter of each descriptor is another descriptor's as well, in a service that joins entries
    with `_`."""
    overlapping: list[int] = field(default_factory=list)
    """Hits of calls about the same bucket that were under way at the same time."""

    def rule(self, place: int) -> Mapping[str, Any]:
        """Return the explanation of a descriptor; empty if there is none."""
        descriptors = self.explanation.get("descriptors", ())
        return descriptors[place] if place < len(descriptors) else {}

    def descriptor(self, place: int) -> RateLimitDescriptor:
        """That of the request."""
        return self.request.descriptors[place]

    def hits(self, place: int) -> int:
        """What it costs."""
        return hits_of(self.request, self.descriptor(place))

    def remaining(self, place: int) -> tuple[int, int] | None:
        """What both have left in the bucket of a descriptor, or None where one of them has not answered."""
        if self.theirs.response is None or self.ours.response is None:
            return None
        try:
            one, other = (a.response.statuses[place] for a in (self.theirs, self.ours) if a.response)
        except IndexError:
            return None
        return one.limit_remaining, other.limit_remaining

    def gap(self, place: int) -> int:
        """The difference of these."""
        pair = self.remaining(place)
        return pair[0] - pair[1] if pair else 0

    def has(self, *names: str, place: int | None = None) -> bool:
        """Whether one of these fields differs; in the status of a descriptor, where one is named."""
        return any(
            difference.name in names and (place is None or difference.place == place)
            for difference in self.found
        )
