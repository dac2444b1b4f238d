"""Layers that note when a store is called, and which batch has a call's hits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..core.errors import StoreError
from ..ports import CounterStore, OnOutcomes, Outcome
from ..stores.batch import Batch, Counts, Groups, OnApplied, OnEachApplied, Part
from ..stores.lanes import Place
from ..stores.layers.backend import Backend
from ..stores.layers.layer import Layer
from .spans import BatchSpan, StoreSpan
from .tracer import Tracer


class TracedStore(Layer):
    """The topmost layer: notes each call of the service."""

    def __init__(self, below: CounterStore, tracer: Tracer) -> None:
        super().__init__(below)
        self._tracer = tracer

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        tracer, start = self._tracer, self._tracer.clock()

        def on_traced(outcomes: Sequence[Outcome]) -> None:
            before = tracer.store  # a callback may call the store again
            tracer.store = StoreSpan(start, tracer.clock(), tracer.batch)
            try:
                on_outcomes(outcomes)
            finally:
                tracer.store = before

        self._below.hit(groups, on_traced)


class TracedBackend(Layer):
    """The lowest layer: notes each call of the script."""

    _below: Backend

    def __init__(self, below: Backend, tracer: Tracer) -> None:
        super().__init__(below)
        self._tracer = tracer

    def split(self, groups: Groups) -> Sequence[Part] | None:
        """Split groups as the store below does."""
        return self._below.split(groups)

    def server_of(self, place: Place) -> object:
        """Return the server of a place, as the store below knows it."""
        return self._below.server_of(place)

    async def time(self) -> float | None:
        """Return the time of the store below."""
        return await self._below.time()

    def apply(self, batch: Batch, on_applied: OnApplied) -> None:
        """Apply a batch (layers/backend.py)."""
        start = self._tracer.clock()

        def on_traced(outcome: Counts | StoreError) -> None:
            self._note(start, batch, outcome, on_applied)

        self._below.apply(batch, on_traced)

    def apply_each(self, batches: Sequence[Batch], on_applied: OnEachApplied) -> None:
        """Apply batches, each by itself (layers/backend.py)."""
        start = self._tracer.clock()

        def on_traced(number: int, outcome: Counts | StoreError) -> None:
            self._note(start, batches[number], outcome, partial(on_applied, number))

        self._below.apply_each(batches, on_traced)

    def _note(self, start: int, batch: Batch, outcome: Counts | StoreError, on_applied: OnApplied) -> None:
        """Pass the outcome of a batch on, with its span."""
        tracer = self._tracer
        before = tracer.batch
        error = str(outcome) if isinstance(outcome, StoreError) else ""
        hits = sum(map(len, batch.groups))
        tracer.batch = span = BatchSpan(start, tracer.clock(), len(batch.groups), hits, error)
        try:
            on_applied(outcome)
        finally:
            tracer.batch = before
            tracer.applied(span)
