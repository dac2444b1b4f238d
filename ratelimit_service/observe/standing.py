"""Buckets that are known before anybody asks for them.

A rule with `track` all of whose keys have a value (`team: dba`) is about one bucket. Its counters are read every few
seconds, so that its gauges are there from the load of the rules on, are 0 as soon as a window begins, and are right in each
replica, whoever has charged, given back or reset it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence

from ..core.errors import RateLimitServiceError
from ..core.model import Decision, Descriptor, DescriptorRule, DomainRules, Entry, Request, Window
from ..core.planning import Plan
from ..core.windows.blocks import Spans
from .tracking import Tracker

_BETWEEN_LOOKS = 5.0
"""Seconds between two looks at the counters, but for windows that begin meanwhile."""

_SOONEST = 1.0
"""Seconds that there are at least between two looks."""


_AT_ONCE = 25
"""Buckets that are asked about at once: each takes some 20 µs, and callers wait that long."""

_BREATH = 0.005
"""Seconds between two such questions."""


class Check:
    """A call about one bucket, which counts nothing and whose answer nobody waits for."""

    __slots__ = ("_answered", "request")

    timeout = -1

    def __init__(self, request: Request, answered: Callable[[], None]) -> None:
        self.request = request
        self._answered = answered

    def reply(self, answer: Decision | RateLimitServiceError) -> None:
        """It has been decided, and the observer told, or it could not be."""
        self._answered()


class StandingBuckets:
    """Asks about such buckets: the first `most` of them, in the order of the rules.

    `clock` tells which windows they are in. It is the Observer (ports.py) of the service that it asks, and shows `tracker`
    what it is told; so metrics and logs are not about these checks.
    """

    def __init__(self, tracker: Tracker, clock: Callable[[], float], most: int) -> None:
        self._tracker = tracker
        self._clock = clock
        self._most = most
        self._spans = Spans()
        self._requests: tuple[Request, ...] = ()
        self._windows: frozenset[Window] = frozenset()
        self._changed = asyncio.Event()
        self._under_way = 0

    def following(self, domains: Sequence[DomainRules]) -> Generator[None, None, None]:
        """Ask about the buckets that these rules name, from the last step on; there is one for each descriptor."""
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
        """Ask again and again: at once when the rules change, and soon after a window has begun."""
        while True:
            self._changed.clear()
            await self.look(ask)
            try:
                await asyncio.wait_for(self._changed.wait(), self.pause())
            except TimeoutError:
                continue

    async def look(self, ask: Callable[[Sequence[Check]], None]) -> None:
        """Ask about all of them once, a few at a time; nothing while there are answers to come from the time before."""
        requests = self._requests
        if self._under_way:
            return
        self._under_way = len(requests)
        for first in range(0, len(requests), _AT_ONCE):
            if first:
                await asyncio.sleep(_BREATH)
            ask([Check(request, self._answered) for request in requests[first : first + _AT_ONCE]])

    def pause(self) -> float:
        """Seconds until it is worth asking again."""
        now = self._clock()
        ends = [self._spans.at(window, int(now)).end for window in self._windows]
        return max(_SOONEST, min([_BETWEEN_LOOKS, *[end - now for end in ends]]))

    def decided(self, plan: Plan, decision: Decision) -> None:
        """See ports.Observer."""
        for descriptor, tally in zip(plan.request.descriptors, decision.tallies, strict=True):
            if tally is not None and tally.rule.track:
                self._tracker.note(descriptor, tally)

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """See ports.Observer. What was seen before stays; the store has metrics of its own."""

    def _answered(self) -> None:
        self._under_way -= 1


def _standing(domains: Sequence[DomainRules]) -> Iterator[tuple[Request, list[Window]] | None]:
    """A check of each bucket that a rule with `track` is about alone, and the windows of it; None for other descriptors."""
    for domain in domains:
        for entries, descriptor in _with_values(domain.descriptors, ()):
            if descriptor.rule is not None and descriptor.rule.track:
                check = Request(domain.name, (Descriptor(entries, hits_addend=0),))
                yield check, [limit.window for limit in descriptor.rule.limits]
            else:
                yield None


def _with_values(
    descriptors: Sequence[DescriptorRule], above: tuple[Entry, ...]
) -> Iterator[tuple[tuple[Entry, ...], DescriptorRule]]:
    """The descriptors that only one list of entries leads to; below a key without a value there are as many as values."""
    for descriptor in descriptors:
        if descriptor.value and b"*" not in descriptor.composite:
            entries = (*above, Entry(descriptor.key, descriptor.value))
            yield entries, descriptor
            yield from _with_values(descriptor.children, entries)
