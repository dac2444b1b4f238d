"""One request with both answers, and the state of its buckets before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest
from .answers import Answer, Difference

Bucket = tuple[str, tuple[tuple[bytes, bytes], ...]]
"""A domain and the entries of a descriptor."""


def bucket_of(domain: str, descriptor: RateLimitDescriptor) -> Bucket:
    """Return the bucket of a descriptor, as far as a caller can know it."""
    return domain, tuple((entry.key, entry.value) for entry in descriptor.entries)


def hits_of(request: RateLimitRequest, descriptor: RateLimitDescriptor) -> int:
    """Return the hits of a descriptor, negative for a refund."""
    if descriptor.HasField("hits_addend"):
        hits = descriptor.hits_addend.value
    else:
        hits = request.hits_addend or 1
    return -hits if descriptor.is_negative_hits else hits


@dataclass(slots=True)
class BucketGap:
    """The gap between the two services in one bucket at their last answers.

    `gap` is the remaining budget of the first minus that of the second, `reason` the reason, and `since` the
    number of the request that revealed it.
    """

    gap: int = 0
    reason: str = ""
    since: int = 0
    refunded: bool = False


@dataclass(slots=True)
class Exchange:
    """One request with the answers of both services. `number` counts requests from 1."""

    number: int
    request: RateLimitRequest
    theirs: Answer
    ours: Answer
    explanation: Mapping[str, Any] = field(default_factory=dict)
    """The explanation of our answer."""
    found: list[Difference] = field(default_factory=list)
    known: list[BucketGap | None] = field(default_factory=list)
    """The state of the bucket of each descriptor before; None if it is unknown."""
    shared: list[bool] = field(default_factory=list)
    """For each descriptor, whether another one shares its counter in a service that joins entries with `_`.
    """
    overlapping: list[int] = field(default_factory=list)
    """Hits of concurrent calls for the same bucket."""

    def rule(self, place: int) -> Mapping[str, Any]:
        """Return the explanation of a descriptor; empty if there is none."""
        descriptors = self.explanation.get("descriptors", ())
        return descriptors[place] if place < len(descriptors) else {}

    def descriptor(self, place: int) -> RateLimitDescriptor:
        """Return a descriptor of the request."""
        return self.request.descriptors[place]

    def hits(self, place: int) -> int:
        """Return the hits of a descriptor."""
        return hits_of(self.request, self.descriptor(place))

    def remaining(self, place: int) -> tuple[int, int] | None:
        """Return the remaining budgets of both in the bucket of a descriptor; None if one of them has not
        answered.
        """
        if self.theirs.response is None or self.ours.response is None:
            return None
        try:
            one, other = (a.response.statuses[place] for a in (self.theirs, self.ours) if a.response)
        except IndexError:
            return None
        return one.limit_remaining, other.limit_remaining

    def gap(self, place: int) -> int:
        """Return the difference of the remaining budgets."""
        pair = self.remaining(place)
        return pair[0] - pair[1] if pair else 0

    def has(self, *names: str, place: int | None = None) -> bool:
        """Return whether one of these fields differs, in the status of the descriptor `place` if that is
        given.
        """
        return any(
            difference.name in names and (place is None or difference.place == place)
            for difference in self.found
        )
