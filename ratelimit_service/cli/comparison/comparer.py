"""Compares pairs of answers, with the state of their buckets from earlier comparisons."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ...proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from .answers import Answer, Difference, differences, explained
from .exchange import Bucket, BucketGap, Exchange, bucket_of
from .reasons import follows, reason_of

FOLLOWS = "follows"
"""The reason of a difference that an earlier one explains."""

MOST_BUCKETS = 100_000
"""Buckets whose state is kept; the least recently used one is dropped."""

_DERIVED = ("overall_code", "response_headers_to_add.", "raw_body", "dynamic_metadata.metadata")
"""Fields that follow from the statuses, and have the same reason."""


class Finding(NamedTuple):
    """One difference with its reason; empty if none is known.

    `since` is the request that a difference follows from.
    """

    difference: Difference
    reason: str
    since: int = 0


class Comparison(NamedTuple):
    """One request, and every difference of its two answers."""

    number: int
    request: RateLimitRequest
    findings: Sequence[Finding]

    @property
    def unexplained(self) -> bool:
        """Whether a difference has no reason."""
        return any(not finding.reason for finding in self.findings)


class Comparer:
    """Compares the answers of two services, one request after another."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._most = most_buckets
        self._standings: OrderedDict[Bucket, BucketGap] = OrderedDict()
        self._joined: OrderedDict[bytes, Bucket | None] = OrderedDict()
        self._number = 0

    def compare(
        self,
        request: RateLimitRequest,
        theirs: Answer,
        ours: Answer,
        overlapping: Sequence[int] = (),
    ) -> Comparison:
        """Return every difference with its reason.

        `overlapping` has, for each descriptor, the hits of concurrent calls.
        """
        self._number += 1
        buckets = [bucket_of(request.domain, descriptor) for descriptor in request.descriptors]
        found = differences(theirs, ours)
        exchange = Exchange(
            self._number,
            request,
            theirs,
            ours,
            explained(ours) if found else {},
            found,
            [self._standings.get(bucket) for bucket in buckets],
            [self._is_shared(bucket) for bucket in buckets],
            list(overlapping) or [0] * len(buckets),
        )
        findings = list(self._findings(exchange))
        self._remember(exchange, buckets, findings)
        return Comparison(self._number, request, findings)

    def _findings(self, exchange: Exchange) -> list[Finding]:
        own = [self._finding(exchange, difference) for difference in exchange.found]
        found = []
        for finding in own:
            if not finding.reason and finding.difference.name.startswith(_DERIVED):
                # Use the first reason of the differences in statuses; none if one of them has no reason.
                status = [each for each in own if each.difference.place is not None]
                if status and all(each.reason for each in status):
                    finding = finding._replace(reason=status[0].reason, since=status[0].since)
            found.append(finding)
        return found

    def _finding(self, exchange: Exchange, difference: Difference) -> Finding:
        place = difference.place
        known = exchange.known[place] if place is not None else None
        countable = difference.name in ("statuses.code", "statuses.limit_remaining")
        if countable and known is not None and follows(exchange, place):
            return Finding(difference, FOLLOWS if known.reason else "", known.since)
        reason = reason_of(exchange, difference)
        return Finding(difference, reason.name if reason else "")

    def forget(self, request: RateLimitRequest) -> None:
        """Drop the state of the buckets of a request that only one of the services may have counted."""
        for descriptor in request.descriptors:
            self._standings.pop(bucket_of(request.domain, descriptor), None)

    def _remember(self, exchange: Exchange, buckets: Sequence[Bucket], findings: Sequence[Finding]) -> None:
        for place, bucket in enumerate(buckets):
            pair = exchange.remaining(place)
            if pair is None:
                self._standings.pop(bucket, None)
                continue
            before = exchange.known[place]
            if not _limited(exchange, place) or (before is None and exchange.overlapping[place]):
                continue
            standing = replace(before) if before else BucketGap()
            gap = pair[0] - pair[1]
            # While other calls are in flight, the gap is transient; if nothing is left, it is not visible.
            seen = (before is None or all(pair)) and not exchange.overlapping[place]
            if seen and gap != standing.gap:
                reasons = [each for each in findings if each.difference.place == place]
                standing.gap = gap
                standing.reason = reasons[0].reason if gap and reasons else ""
                standing.since = (reasons[0].since or exchange.number) if gap and reasons else 0
            standing.refunded |= exchange.descriptor(place).is_negative_hits
            self._standings[bucket] = standing
            self._standings.move_to_end(bucket)
        while len(self._standings) > self._most:
            self._standings.popitem(last=False)

    def _is_shared(self, bucket: Bucket) -> bool:
        """Return whether another bucket has the same entries when joined with `_`."""
        domain, entries = bucket
        text = b"_".join(
            [domain.encode("utf-8", "surrogateescape"), *(part for entry in entries for part in entry)]
        )
        first = self._joined.setdefault(text, bucket)
        if first != bucket:
            self._joined[text] = None  # several
        self._joined.move_to_end(text)
        while len(self._joined) > self._most:
            self._joined.popitem(last=False)
        return self._joined.get(text) is None


def _limited(exchange: Exchange, place: int) -> bool:
    """Return whether both services have a limit for a descriptor."""
    return all(
        answer.response is not None and _status(answer.response, place).HasField("current_limit")
        for answer in (exchange.theirs, exchange.ours)
    )


def _status(response: RateLimitResponse, place: int) -> RateLimitResponse.DescriptorStatus:
    return response.statuses[place]
