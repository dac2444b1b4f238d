"""Settling: each charge is counted once, whatever happens to the calls that carry it to Redis.

    hit(groups, on_outcomes) ── split: a Batch for each place ──▶ _send(batch, on_settled)
                                                             │ batch.sent = a lane, with the next number
                                                             ▼
                                                           Backend.apply(batch, on_applied)
                                                             │
                                                             ▼
                                                           Redis (this part is in stores/redis/store.py)
                                                             │
                      counts: the lane is free again         ▼
    then ◀── join ◀── on_settled ◀──────────────────────── on_applied
                          ▲                                  │ an error: _on_failure, by its Fate
                          │                                  ├─ LOST, UNCLEAR: maybe applied: `sent` stays
                          │ the error, at once               ├─ REFUSED, BAD_LANE: not applied: `sent` is None
                          └────────────────── _keep ◀────────┤
                                                │            └─ FORBIDDEN: _send_allowed: forbidden hits fail,
                                                ▼                 the others go by _send again
                                              Journal
                                                │ JournalWriter, once Redis is back
                                                ▼
                                              _resend: by the same lane where `sent` is set, else by _send

`lanes.py` describes how a lane ensures that a batch is applied once. The journal is in memory and bounded.
While the circuit is open (Redis is away), `hit` sends nothing: callers get an error at once, and charges go
to the journal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from ...core.errors import StoreError
from ...ports import OnOutcomes, Outcome
from ...runtime.tasks import Background
from ..batch import Batch, CallFailed, Counts, Fate, Groups, InFlight, Part, failed, is_check, join
from ..batch_age import Clocks
from ..lanes import EVERYWHERE, Lanes
from ..throttled_log import ENTRIES_MISSING, ThrottledLog
from .backend import Backend
from .forbidden_keys import entries_without, find_forbidden, with_refusals, without
from .journal import Journal
from .journal_writer import JournalWriter
from .layer import Layer

_OPENS_AFTER = 3
"""Failures in a row that open the circuit, and batches of one place in the journal that open the circuit of
that place."""

_FIRST_RETRY, _LAST_RETRY = 0.05, 0.5
"""Seconds between two attempts to reach Redis: the first pause, and the longest. Each is shortened at random,
by up to half."""

_AFTER_A_MISTAKE = 10.0
"""Seconds until the next attempt after an unexpected exception: each one puts a traceback in the log."""

_TASK = "journal"
"""The task name under which failures to write the journal are counted."""

_MOST_IN_FLIGHT = 64
"""Calls of `hit` in flight. At this number Redis counts as overloaded, and charges go to the journal."""


class SettlingStore(Layer):
    """Sends batches to Redis, keeps those that fail, and sends them again until they are settled."""

    _below: Backend

    def __init__(
        self,
        below: Backend,
        journal_size: int = 100_000,
        random_share: Callable[[], float] = random.random,
        background: Background | None = None,
    ) -> None:
        super().__init__(below)
        self.journal = Journal(journal_size)
        self.open = False
        """Whether the circuit is open: Redis is away, and only probes are sent to it."""
        self._clocks = Clocks(below.time)
        self._writer = JournalWriter(below, self.journal, self._clocks, self._resend)
        self.failures = 0
        """The number of failed calls."""
        self.unrecorded = 0
        """Entries of ledgers whose keys Redis has forbidden, although it has counted their charges."""
        self._notes = ThrottledLog()
        self._failures_in_a_row = 0
        self._hand_overs = 0
        self._failed_hand_over = 0
        self._lanes = Lanes()
        self._in_flight = InFlight()
        self._resends = InFlight()
        self._recovering: asyncio.Task[None] | None = None
        self._background = background or Background()
        self._background.expect(_TASK)
        self._closing = False
        self._random_share = random_share
        self._log = structlog.get_logger("ratelimit_service.store")

    async def start(self) -> None:
        """Reach the store below, and read its clock."""
        await super().start()
        await self._clocks.read()

    async def ping(self) -> None:
        """Raise StoreError unless the store below can be reached; read its clock."""
        await super().ping()
        await self._clocks.read()

    # The way down.

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):
            on_outcomes([() for _ in groups])
        elif self.open or self._in_flight.count >= _MOST_IN_FLIGHT:
            why = (
                "Redis is away"
                if self.open
                else f"Redis is overloaded: {_MOST_IN_FLIGHT} calls are in flight"
            )
            self._keep(Batch(groups), StoreError(why), on_outcomes)
        else:
            parts = self._below.split(groups)
            on_settled = self._counted(self._in_flight, on_outcomes)
            if parts is None:
                self._send(Batch(groups, EVERYWHERE, None, self._hand_overs), on_settled)
            else:
                self._send_parts(groups, parts, on_settled)

    def _counted(self, in_flight: InFlight, on_outcomes: OnOutcomes) -> OnOutcomes:
        """Count a hand-over, which is in flight until the returned callback is called."""
        self._hand_overs += 1
        in_flight.begin()

        def on_settled(outcomes: Sequence[Outcome]) -> None:
            try:
                on_outcomes(outcomes)
            finally:
                in_flight.end()

        return on_settled

    def _send_parts(self, groups: Groups, parts: Sequence[Part], on_settled: OnOutcomes) -> None:
        """Send each part as a batch, except to places whose circuit is open."""
        sent = _SentParts(self, groups, parts, on_settled)
        for index, part in enumerate(parts):
            batch = Batch(part.groups, part.place, None, self._hand_overs)
            if part.place in self._writer.open_circuits:
                self._keep(batch, StoreError("a part of Redis is away"), partial(sent.settle, index))
            else:
                if not is_check(part.groups):  # which may be sent any number of times
                    batch.sent = self._lanes.take(batch.place, self._clocks.last)
                sent.batches.append(batch)
                sent.indexes.append(index)
        if sent.batches:
            self._below.apply_each(sent.batches, sent.on_applied)

    def on_applied(
        self, batch: Batch, outcome: Counts | StoreError, on_settled: OnOutcomes, *, narrowed: bool = False
    ) -> None:
        """Free the lane of a batch, or handle its failure."""
        if isinstance(outcome, StoreError):
            self._on_failure(batch, outcome, on_settled, narrowed=narrowed)
            return
        self._failures_in_a_row = 0
        lane = batch.sent
        if lane is not None:
            lane.free.append(lane)
        on_settled(outcome)

    def _send(self, batch: Batch, on_settled: OnOutcomes, *, narrowed: bool = False) -> None:
        """Send a batch on a lane of its place. `narrowed`: its forbidden hits have already been removed."""
        batch.sent = self._lanes.take(batch.place, self._clocks.last)
        self._below.apply(
            batch, lambda outcome: self.on_applied(batch, outcome, on_settled, narrowed=narrowed)
        )

    def _resend(self, batch: Batch, on_resent: OnOutcomes) -> None:
        """Send a batch of the journal again: unchanged and by the same lane if Redis may have applied it.

        If that fails, keep it again.
        """
        on_settled = self._counted(self._resends, on_resent)
        if batch.sent is None:
            batch.hand_over = self._hand_overs
            self._send(batch, on_settled)
            return

        def on_applied(outcome: Counts | StoreError) -> None:
            if isinstance(outcome, StoreError):
                self.journal.put_back(batch)
                on_settled(failed(batch.groups, outcome))
            else:  # the lane is not used again
                on_settled(outcome)

        self._below.apply(batch, on_applied)

    # The way back of a call that failed.

    def _on_failure(self, batch: Batch, error: StoreError, on_settled: OnOutcomes, *, narrowed: bool) -> None:
        self.failures += 1
        fate = error.fate if isinstance(error, CallFailed) else Fate.LOST
        if fate not in (Fate.LOST, Fate.UNCLEAR):
            lane, batch.sent = batch.sent, None
            if lane is not None and fate is not Fate.BAD_LANE:
                lane.free.append(lane)
        if fate is not Fate.FORBIDDEN:
            self._fail(batch, error, on_settled)
        elif narrowed:
            self._fail(batch, _acl_changed(error), on_settled)
        else:
            self._send_allowed(batch, error, on_settled)

    def _send_allowed(self, batch: Batch, error: StoreError, on_settled: OnOutcomes) -> None:
        """Find the keys of a batch that an ACL forbids, and send the other hits.

        Redis has applied nothing of the batch.
        """
        groups = batch.groups
        lane = self._lanes.take(batch.place, None)

        def on_found(forbidden: set[str] | StoreError) -> None:
            if not isinstance(forbidden, CallFailed) or forbidden.fate is Fate.REFUSED:
                lane.free.append(lane)
            if isinstance(forbidden, StoreError):
                self._fail(batch, forbidden, on_settled)
                return
            if not forbidden:
                self._fail(batch, _acl_changed(error), on_settled)
                return
            missed = entries_without(forbidden, groups)
            if missed:
                self.unrecorded += missed
                self._notes.error(ENTRIES_MISSING, error=str(error), entries=self.unrecorded)
            if any(allowed := without(forbidden, groups)):

                def on_allowed_settled(outcomes: Sequence[Outcome]) -> None:
                    on_settled(with_refusals(forbidden, groups, outcomes, error))

                rest = Batch(allowed, batch.place, hand_over=batch.hand_over)
                self._send(rest, on_allowed_settled, narrowed=True)
            else:
                on_settled(with_refusals(forbidden, groups, [()] * len(groups), error))

        find_forbidden(self._below.apply, groups, Batch((), batch.place, lane), on_found)

    def _fail(self, batch: Batch, error: StoreError, on_settled: OnOutcomes) -> None:
        """Count a failure, which may open a circuit, and keep the batch."""
        partly = isinstance(error, CallFailed) and (error.partly or error.fate is Fate.BAD_LANE)
        if not partly and batch.hand_over != self._failed_hand_over:
            self._failed_hand_over = batch.hand_over
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= _OPENS_AFTER and not self.open:
                self.open = True
                self._log.error(
                    "Redis is away: requests get the failure mode's answer, and charges are kept",
                    error=str(error),
                )
                self._recover()
        self._keep(batch, error, on_settled)
        if batch.place != EVERYWHERE and self.journal.batches_at(batch.place) >= _OPENS_AFTER:
            self._writer.open_circuits.add(batch.place)

    def _keep(self, batch: Batch, error: StoreError, on_settled: OnOutcomes) -> None:
        """Put the charges of a batch into the journal, and pass the error to its caller."""
        lost = self.journal.dropped
        # A server that stays away must not fill the journal: other servers need it during short failures.
        away = batch.place != EVERYWHERE and self._below.server_of(batch.place) is None
        batch.kept_at = asyncio.get_running_loop().time()
        self.journal.add(batch, for_long=away)
        if self.journal.dropped > lost == 0:
            self._log.error("the journal is full: charges are being lost", hits=self.journal.hits)
        if self.journal.hits:
            self._recover()
        on_settled(failed(batch.groups, error))

    # Recovery.

    def _recover(self) -> None:
        """Begin to write the journal, unless a task is doing that already."""
        if self._recovering is None and not self._closing:
            self._recovering = asyncio.get_running_loop().create_task(self._retry())

    async def _retry(self) -> None:
        """Probe Redis and write the journal until every circuit is closed and the journal is empty."""
        pause = _FIRST_RETRY
        closed = False
        try:
            while self.open or self.journal.hits:
                if not closed:
                    await asyncio.sleep(pause * (1 - self._random_share() / 2))
                    pause = min(2 * pause, _LAST_RETRY)
                try:
                    if self.open:
                        await self._below.start()  # the probe: the circuit is half open
                    places = len(self._writer.open_circuits)
                    await self._writer.write()
                except StoreError:
                    closed = False
                    continue
                except Exception as error:
                    # A bug here or in the driver. Only this task writes the journal, so it continues.
                    self._background.failed(_TASK, "the journal could not be written", error)
                    closed, pause = False, _AFTER_A_MISTAKE
                    continue
                # Once a circuit closes, the charges kept meanwhile are written without a pause.
                closed = self.open or len(self._writer.open_circuits) < places
                if self.open:
                    self.open = False
                    self._failures_in_a_row = 0
                    self._log.warning("Redis is back", lost=self.journal.dropped)
                if closed:
                    pause = _FIRST_RETRY
        finally:
            self._recovering = None

    async def close(self) -> None:
        """Finish what is in flight, try once more to write the journal, and close."""
        await self._in_flight.drained()
        self._closing = True
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
            await self._resends.drained()
        if self.journal.hits:
            why = "a part of Redis is away"
            try:
                await self._writer.write()
            except StoreError as error:
                why = str(error)
            if self.journal.hits:
                self._log.error("charges are lost", hits=self.journal.hits, error=why)
        await super().close()


def _acl_changed(error: StoreError) -> CallFailed:
    """Return an error for a batch whose forbidden keys have changed meanwhile, so that it is sent again."""
    return CallFailed(str(error), Fate.REFUSED, partly=True)


class _SentParts:
    """The parts of a hand-over that were sent. Joins their outcomes once all are settled.

    Not functions within `_send_parts`: where these are compiled, all variables of a function that they use
    are in one object, so one that uses another is in a cycle, which only the garbage collector releases.
    """

    __slots__ = ("_groups", "_missing", "_on_settled", "_outcomes", "_parts", "_store", "batches", "indexes")

    def __init__(
        self, store: SettlingStore, groups: Groups, parts: Sequence[Part], on_settled: OnOutcomes
    ) -> None:
        self._store = store
        self._groups = groups
        self._parts = parts
        self._on_settled = on_settled
        self._outcomes: list[Sequence[Outcome]] = [()] * len(parts)
        self._missing = len(parts)
        self.batches: list[Batch] = []
        self.indexes: list[int] = []
        """The index of the part of each batch."""

    def on_applied(self, number: int, outcome: Counts | StoreError) -> None:
        """Settle a part (batch.OnEachApplied)."""
        self._store.on_applied(self.batches[number], outcome, partial(self.settle, self.indexes[number]))

    def settle(self, index: int, outcomes: Sequence[Outcome]) -> None:
        """Note the outcomes of a part."""
        self._outcomes[index] = outcomes
        self._missing -= 1
        if not self._missing:
            self._on_settled(join(self._groups, self._parts, self._outcomes))
