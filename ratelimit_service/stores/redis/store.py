"""The base class of the stores in Redis: batches are applied by calls of hit.lua."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import structlog
from redis.exceptions import RedisError

from ...core.errors import StoreError
from ...ports import OnOutcomes
from ..batch import (
    Batch,
    CallFailed,
    Counts,
    Groups,
    InFlight,
    OnApplied,
    OnEachApplied,
    Part,
    callbacks_for,
    failed,
    join,
)
from ..lanes import EVERYWHERE, Place
from ..throttled_log import ENTRIES_MISSING, HOLDS_MISSING, ThrottledLog
from .amendments import RedisAmendments
from .background_scripts import Evaluation
from .bucket_counters import delete_counters
from .errors import failure
from .events import RedisEvents
from .replicas import RedisReplicas
from .script import ScriptCall
from .slots import tag_in
from .wire import Command, OnReply

OnCounts = Callable[[Counts | Exception], None]
"""Called with the counts in the reply of the script, or with an exception."""


class ScriptStore:
    """Counters in Redis; all keys begin with `prefix`.

        apply(batch, on_applied) ─▶ _apply: a ScriptCall ─▶ _evaluate, by the Wire of the place ─▶ Redis
        on_applied ◀── on_counts ◀───────────────────────── on_reply ◀──────────────────────────────┘

    `observe` gets the seconds of each round trip. `hit` tries once; layers/settling.py uses `split` and
    `apply`, and sends a batch that has failed again.
    """

    def __init__(self, observe: Callable[[float], None] = lambda seconds: None, prefix: str = "") -> None:
        self._observe = observe
        self._prefix = prefix
        self._in_flight = InFlight()
        self.unrecorded = 0
        """Entries of ledgers that Redis has refused, although it has counted their charges."""
        self.unheld = 0
        """Calls whose holds could not all be read or written."""
        self._notes = ThrottledLog()
        self._log = structlog.get_logger("ratelimit_service.store")
        self.amendments = RedisAmendments(self._run, self._on_error, prefix)
        self.replicas = RedisReplicas(self._run, self._on_error, prefix)
        self.events = RedisEvents(self._run, self._on_error, prefix)

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):
            on_outcomes([() for _ in groups])
            return

        def on_applied(outcome: Counts | StoreError) -> None:
            on_outcomes(failed(groups, outcome) if isinstance(outcome, StoreError) else outcome)

        self.apply(Batch(groups), on_applied)

    def apply(self, batch: Batch, on_applied: OnApplied) -> None:
        """Apply a batch, unless it was applied before (layers/backend.py)."""
        started = perf_counter()
        self._in_flight.begin()

        def on_counts(outcome: Counts | Exception) -> None:
            self._observe(perf_counter() - started)
            try:
                on_applied(self._on_error(outcome) if isinstance(outcome, Exception) else outcome)
            finally:
                self._in_flight.end()

        self._apply(batch, on_counts)

    def apply_each(self, batches: Sequence[Batch], on_applied: OnEachApplied) -> None:
        """Apply batches, each by itself (layers/backend.py)."""
        for number, batch in enumerate(batches):
            self.apply(batch, partial(on_applied, number))

    def _apply(self, batch: Batch, on_counts: OnCounts) -> None:
        self._apply_in_one_call(batch, on_counts)

    def _apply_in_one_call(self, batch: Batch, on_counts: OnCounts) -> None:
        call = self._call(batch)

        def on_reply(reply: Any) -> None:
            on_counts(self._counts(call, reply))

        self._evaluate(batch.place, call.command, on_reply)

    def _counts(self, call: ScriptCall, reply: Any) -> Counts | Exception:
        """Return the counts in the reply to a call; count and log what it could not read or write beside the
        counters.
        """
        counts = call.counts(reply)
        if call.missed:
            self.unrecorded += call.missed
            self._notes.error(ENTRIES_MISSING, error=call.unrecorded, entries=self.unrecorded)
        if call.unheld:  # requests pass as if the rule had no holds
            self.unheld += 1
            self._notes.error(HOLDS_MISSING, error=call.unheld, calls=self.unheld)
        return counts

    def _apply_in_parts(self, batch: Batch, parts: Sequence[Part], on_counts: OnCounts) -> None:
        """Apply a batch by one call for each part.

        If some fail, the others are applied all the same, and the batch counts as lost.
        """

        def on_all_counts(outcomes: list[Counts | Exception]) -> None:
            counts: list[Counts] = []
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    on_counts(CallFailed(str(self._on_error(outcome))))
                    return
                counts.append(outcome)
            on_counts(join(batch.groups, parts, counts))

        for part, on_part_counts in zip(parts, callbacks_for(len(parts), on_all_counts), strict=True):
            self._apply_in_one_call(Batch(part.groups, part.place, batch.sent), on_part_counts)

    def _call(self, batch: Batch) -> ScriptCall:
        place = batch.place
        if isinstance(place, str):
            return ScriptCall(batch, self._prefix, place, routed=True)
        return ScriptCall(batch, self._prefix, "" if place == EVERYWHERE else tag_in(place))

    def _evaluate(self, place: Place, command: Command, on_reply: OnReply) -> None:
        """Run the script on the server of a place."""
        raise NotImplementedError

    async def delete_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Delete counters, and return the last values of those that existed (ports.CounterStore)."""
        try:
            return await delete_counters(self._run, self._prefix, keys)
        except (RedisError, OSError) as error:
            raise self._on_error(error) from None

    async def _run(self, what: Evaluation) -> Any:
        """Run a script of the amendments on the server that has its keys."""
        raise NotImplementedError

    def _on_error(self, error: Exception) -> StoreError:
        """Return an error of redis-py as callers see it."""
        return failure(error)
