"""Checks the buckets that rules name, so that their gauges are current before and without requests.

A rule with `track` whose keys all have values (`team: dba`) has a single bucket. Its counters are read every
few seconds. So its gauges exist from the load of the rules on, are 0 as soon as a window begins, and are
right in each replica, no matter which replica charged, refunded or reset the bucket.

In the same rounds, what is held of tracked buckets is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence

from ..core.errors import RateLimitServiceError, StoreError
from ..core.holds.entries import NO_ID
from ..core.model import Decision, Descriptor, DescriptorRule, DomainRules, Entry, Request, Window
from ..core.plan import Plan
from ..core.windows.blocks import Spans
from .tracking import Tracker

_ROUND = 5.0
"""Seconds between two rounds of checks, unless a window begins earlier."""

_SHORTEST_ROUND = 1.0
"""The fewest seconds between two rounds."""


_BATCH = 25
"""Checks in one batch: each takes some 20 µs, for which callers wait."""

_BETWEEN_BATCHES = 0.005
"""Seconds between two batches of a round."""


ReadHolds = Callable[[Sequence[str], int], Awaitable[Mapping[str, int]]]
"""CounterStore.read_holds."""


class Check:
    """A call that checks one bucket; its answer goes to the observer only."""

    __slots__ = ("_answered", "request")

    timeout = -1
    gone = True

    def __init__(self, request: Request, answered: Callable[[], None]) -> None:
        self.request = request
        self._answered = answered

    def reply(self, answer: Decision | RateLimitServiceError) -> None:
        """See service.Call."""
        self._answered()


class NamedBuckets:
    """Checks the first `most` of these buckets, in the order of the rules.

    It is the Observer (ports.py) of the service that decides the checks, and passes their tallies to
    `tracker`. So metrics and logs do not include these checks.
    """

    def __init__(
        self, tracker: Tracker, clock: Callable[[], float], most: int, read_holds: ReadHolds | None = None
    ) -> None:
        self._tracker = tracker
        self._read_holds = read_holds
        self._held_read_at = 0.0
        """When holds were last read."""
        self._clock = clock
        self._most = most
        self._spans = Spans()
        self._requests: tuple[Request, ...] = ()
        self._windows: frozenset[Window] = frozenset()
        self._changed = asyncio.Event()
        self._in_flight = 0

    def following(self, domains: Sequence[DomainRules]) -> Generator[None, None, None]:
        """Check the buckets of these rules, after the last step; there is a step for each descriptor."""
        standing: list[tuple[Request, list[Window]]] = []
        for found in _standing(domains):
            if found is not None:
                if len(standing) >= self._most:
                    break
                standing.append(found)
            yield
        self._requests = tuple([request for request, _ in standing])
        self._windows = frozenset([window for _, windows in standing for window in windows])
        self._changed.set()

    async def run(self, ask: Callable[[Sequence[Check]], None]) -> None:
        """Check in rounds: at once when the rules change, and soon after a window has begun."""
        while True:
            self._changed.clear()
            await self.check(ask)
            await self.read_held_tokens()
            try:
                await asyncio.wait_for(self._changed.wait(), self.pause())
            except TimeoutError:
                continue

    async def check(self, ask: Callable[[Sequence[Check]], None]) -> None:
        """Check all buckets once, a few at a time.

        Does nothing while checks of the previous round are in flight.
        """
        requests = self._requests
        if self._in_flight:
            return
        self._in_flight = len(requests)
        for first in range(0, len(requests), _BATCH):
            if first:
                await asyncio.sleep(_BETWEEN_BATCHES)
            ask([Check(request, self._answered) for request in requests[first : first + _BATCH]])

    async def read_held_tokens(self) -> None:
        """Read the held tokens of the buckets that were used since the last time. A failure leaves the gauges
        as they are.
        """
        since, self._held_read_at = self._held_read_at, self._clock()
        keys = self._tracker.hold_keys(since)
        if self._read_holds is None or not keys:
            return
        try:
            held = await self._read_holds(keys, int(self._held_read_at))
        except StoreError:
            self._held_read_at = since
            return
        self._tracker.note_held(keys, held)

    def pause(self) -> float:
        """Return the seconds until the next round."""
        now = self._clock()
        ends = [self._spans.at(window, int(now)).end for window in self._windows]
        return max(_SHORTEST_ROUND, min([_ROUND, *[end - now for end in ends]]))

    def decided(self, plan: Plan, decision: Decision) -> None:
        """See ports.Observer."""
        for descriptor, tally in zip(plan.request.descriptors, decision.tallies, strict=True):
            if tally is not None and tally.rule.track:
                self._tracker.note(descriptor, tally)

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """See ports.Observer. The gauges keep their values; the store has its own metrics."""

    def _answered(self) -> None:
        self._in_flight -= 1


def _standing(domains: Sequence[DomainRules]) -> Iterator[tuple[Request, list[Window]] | None]:
    """Yield a check for each single bucket of a rule with `track`, with its windows; None for other
    descriptors.
    """
    for domain in domains:
        for entries, descriptor in _with_values(domain.descriptors, ()):
            if descriptor.rule is not None and descriptor.rule.track:
                check = Request(domain.name, (Descriptor(entries, hits_addend=0),), returned=(NO_ID,))
                yield check, [limit.window for limit in descriptor.rule.limits]
            else:
                yield None


def _with_values(
    descriptors: Sequence[DescriptorRule], above: tuple[Entry, ...]
) -> Iterator[tuple[tuple[Entry, ...], DescriptorRule]]:
    """Yield the descriptors that only one list of entries matches."""
    for descriptor in descriptors:
        if descriptor.value and b"*" not in descriptor.composite:
            entries = (*above, Entry(descriptor.key, descriptor.value))
            yield entries, descriptor
            yield from _with_values(descriptor.children, entries)
