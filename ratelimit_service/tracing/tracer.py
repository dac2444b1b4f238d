"""Notes the spans of calls and batches, and decides which calls have a span.

    TracedService ─▶ TracedStore ─▶ layers ─▶ TracedBackend ─▶ Redis
          │               │                        │
          └── Tracer: `answered` ◀── `store` ◀── `batch`          on the event loop
                │
                └── SpanQueue, a bounded queue ─▶ exporting.py     in a thread

A call is noted once its answer is known, so a refusal has a span whatever the sampling rate, and a call that
has none costs nothing but that decision. All callbacks of a batch run within one another, so `store` and
`batch` are those of the call that is being answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import getrandbits, random
from threading import Event
from time import time_ns
from typing import Any

from ..core.errors import RateLimitServiceError
from ..core.model import OK, Decision, Request
from ..core.trace_context import Parent, TraceHeaders, parent_of
from .spans import BatchSpan, CallSpan, StoreSpan, attributes_of, attributes_of_error, text_of


class SpanQueue:
    """A bounded queue from the event loop to the exporter. `wanted` notes wake the exporter."""

    def __init__(self, most: int, wanted: int) -> None:
        self._most = most
        self._wanted = min(wanted, most)
        self._waiting: deque[CallSpan | BatchSpan] = deque()
        self.ready = Event()
        """Set when enough notes wait, or the exporter is to end."""
        self.dropped = 0
        """Spans for which there was no room."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, note: CallSpan | BatchSpan) -> None:
        """Queue a note, or drop it. Called by one thread, the event loop's."""
        waiting = len(self._waiting)
        if waiting >= self._most:
            self.dropped += spans_in(note)
            return
        self._waiting.append(note)
        if waiting + 1 == self._wanted:
            self.ready.set()

    def take(self, most: int) -> list[CallSpan | BatchSpan]:
        """Take up to `most` notes."""
        taken: list[CallSpan | BatchSpan] = []
        while len(taken) < most and self._waiting:
            taken.append(self._waiting.popleft())
        return taken


def spans_in(note: CallSpan | BatchSpan) -> int:
    """Return how many spans a note becomes."""
    return 2 if isinstance(note, CallSpan) and note.store is not None else 1


class Tracer:
    """Notes spans in `notes`. `rate` is the share of calls without a parent that have one.

    `draw` returns a random number from 0 to below 1, and `clock` nanoseconds since 1970.
    """

    def __init__(
        self,
        notes: SpanQueue,
        rate: float,
        draw: Callable[[], float] = random,
        clock: Callable[[], int] = time_ns,
    ) -> None:
        self._notes = notes
        self._rate = rate
        self._draw = draw
        self.clock = clock
        self.store: StoreSpan | None = None
        """The call of the store whose callback runs now."""
        self.batch: BatchSpan | None = None
        """The batch whose callback runs now."""

    def answered(self, request: Request, sent: TraceHeaders | None, start: int, answer: Any) -> None:
        """Note a call that was answered with a decision or an error."""
        parent = parent_of(sent.traceparent, sent.tracestate) if sent is not None else None
        store = self.store
        if isinstance(answer, Decision):
            if answer.code is OK and not self._chosen(parent):
                return
            attributes, error = attributes_of(request, answer), ""
        else:
            attributes, error = attributes_of_error(request), text_of(answer)
        if store is not None and (batch := store.batch) is not None and not batch.span_id:
            batch.trace_id, batch.span_id = new_trace_id(), new_span_id()
        json = sent is not None and sent.json
        self._notes.put(CallSpan(start, self.clock(), parent, attributes, json, error, store))

    def refused(self, sent: TraceHeaders | None, error: RateLimitServiceError) -> None:
        """Note a call that was refused before it could be planned."""
        now = self.clock()
        parent = parent_of(sent.traceparent, sent.tracestate) if sent is not None else None
        json = sent is not None and sent.json
        self._notes.put(CallSpan(now, now, parent, attributes_of_error(None), json, text_of(error), None))

    def applied(self, batch: BatchSpan) -> None:
        """Note a batch, if a span refers to it."""
        if batch.span_id:
            self._notes.put(batch)

    def _chosen(self, parent: Parent | None) -> bool:
        """Return whether an allowed call has a span: by its parent, or at random without one."""
        if parent is not None:
            return parent.sampled
        return self._rate >= 1 or self._draw() < self._rate


def new_trace_id() -> int:
    """Return a random trace id, which is never 0."""
    return getrandbits(128) or 1


def new_span_id() -> int:
    """Return a random span id, which is never 0."""
    return getrandbits(64) or 1
