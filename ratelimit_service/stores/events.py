"""Events in this process, for counters in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..ports import Clock, DroppedEvent, EmitResult, PendingEvent

MOST_EVENTS = 10_000
"""Events that wait in a store. One is about 700 bytes, so they take 7 MB at most."""

TAKEN_AGAIN = 60
"""Seconds after which another replica may take an event that one replica took, and neither delivered nor
held.
"""

FORGOTTEN_AFTER = 7 * 86_400
"""Seconds without a delivering replica after which a receiver is forgotten: longer than a deployment, its
rollback, and a weekend in between."""


class MemoryEvents:
    """An EventStore (ports.py) for a service of one replica."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self._known: OrderedDict[str, float] = OrderedDict()
        self._events: OrderedDict[int, str] = OrderedDict()
        self._next: dict[str, int] = {}
        self._pending: dict[str, dict[int, float]] = {}
        self._used: dict[str, float] = {}
        """The time at which each receiver was last in use."""

    async def emit(self, event_id: str, text: str, kept: int) -> EmitResult:
        """Keep an event (ports.EventStore.emit)."""
        now = self._clock()
        if self._known.get(event_id, 0.0) > now:
            return EmitResult(False)
        self._known[event_id] = now + kept
        self._known.move_to_end(event_id)
        while len(self._known) > MOST_EVENTS:
            self._known.popitem(last=False)
        self._last += 1
        self._events[self._last] = text
        dropped: list[DroppedEvent] = []
        while len(self._events) > MOST_EVENTS:
            number, old = self._events.popitem(last=False)
            dropped += [DroppedEvent(name, old) for name, begin in self._next.items() if number >= begin]
        return EmitResult(True, dropped)

    async def open(self, receiver: str) -> None:
        """Begin to keep events for a receiver (ports.EventStore.open)."""
        self._next.setdefault(receiver, self._last + 1)

    async def take(self, receiver: str, replica: str, most: int) -> Sequence[PendingEvent]:
        """Return what a receiver is to get (ports.EventStore.take)."""
        now = self._clock()
        pending = self._pending.setdefault(receiver, {})
        begin = self._next.setdefault(receiver, self._last + 1)
        old = [number for number, until in pending.items() if until <= now]
        new = [number for number in self._events if number >= begin]
        found = [number for number in (*old, *new) if number in self._events][:most]
        for number in found:
            pending[number] = now + TAKEN_AGAIN
            self._next[receiver] = max(self._next[receiver], number + 1)
        return [PendingEvent(str(number), self._events[number]) for number in found]

    async def hold(self, receiver: str, replica: str, place: str) -> None:
        """Keep a taken event (ports.EventStore.hold)."""
        if int(place) in self._pending.get(receiver, ()):
            self._pending[receiver][int(place)] = self._clock() + TAKEN_AGAIN

    async def done(self, receiver: str, place: str) -> None:
        """Note that a receiver has got an event (ports.EventStore.done)."""
        self._pending.get(receiver, {}).pop(int(place), None)

    async def forget_unused(self, receivers: Sequence[str]) -> Sequence[str]:
        """Note the receivers in use, and forget old ones (ports.EventStore.forget_unused)."""
        now = self._clock()
        self._used.update(dict.fromkeys(receivers, now))
        gone = [
            name
            for name in self._next
            if name not in receivers and now - self._used.setdefault(name, now) > FORGOTTEN_AFTER
        ]
        for name in gone:
            for kept in (self._next, self._pending, self._used):
                kept.pop(name, None)
        return gone

    async def waiting(self, receiver: str) -> int:
        """Return how many events wait (ports.EventStore.waiting)."""
        begin = self._next.get(receiver, self._last + 1)
        new = sum(number >= begin for number in self._events)
        return new + len(self._pending.get(receiver, ()))
