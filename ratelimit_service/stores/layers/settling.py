"""Nothing is lost and nothing is counted twice, whatever becomes of a call to Redis.

Every call of the script carries the name of a lane and the number of its batch. The script keeps the number of the last
batch that it applied in the lane's register, and applies a batch whose number it finds there no second time. A lane has one
batch under way at a time. So a batch whose outcome is not known can be sent again, as often as it takes: it is applied once.
After that its lane is given up, because the first call may still be somewhere on its way.

Where Redis refused a call before it applied anything (batch.Fate), there is nothing to settle: the lane is used again, and the
hits are sent anew. Where it refuses certain keys (an ACL), their hits fail for good, and those beside them are counted.

What could not be written is kept in a journal, in memory and bounded, and written when Redis is back. While Redis is away
(the circuit is open), calls are not even tried: they are answered with an error at once, and go to the journal.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from ...core.decision import Count
from ...core.errors import StoreError
from ...core.model import Hit
from ...core.recent import MIB, Recent
from ...ports import Outcome, Then
from ...runtime.tasks import Background
from ..batch import (
    EVERYWHERE,
    Batch,
    CallFailed,
    Fate,
    Place,
    UnderWay,
    joined,
    together,
)
from .backend import Backend
from .forbidden import find_forbidden, with_refusals, without
from .journal import Entry, Journal
from .journal_writer import JournalWriter
from .layer import Layer
from .moments import Moment, Moments

_OPENS_AFTER = 3
"""This many batches in a row that fail open the circuit; as many of one place that wait in the journal open that of the place."""

_FIRST_RETRY, _LAST_RETRY = 0.05, 0.5
"""Seconds between two tries to reach Redis: from, to; each is shortened at random by up to a half."""

_AFTER_A_MISTAKE = 10.0
"""The same where something failed that should not: each time is a traceback in the log."""

_TASK = "journal"
"""What failures of writing the journal are counted under."""

_MOST_UNDER_WAY = 64
"""Calls that wait for Redis; while there are so many, hits go to the journal."""

_LANES_BYTES = 8 * MIB
"""For the lanes of places that can be used again: of all slots, or of some 20,000 buckets behind a proxy."""


class _Call(NamedTuple):
    """Groups on their way to one place. `turn` is that of the batch that they are a part of."""

    groups: Sequence[Sequence[Hit]]
    where: Place
    then: Then
    turn: int = 0


class _Sent(NamedTuple):
    """How a batch was sent, and a moment before that."""

    lane: str
    number: str
    before: Moment | None


class SettlingStore(Layer):
    """Sends batches to Redis, keeps those that fail, and settles them."""

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
        """Whether the circuit is open: Redis is away, and nothing but a probe is sent to it."""
        self._moments = Moments(below)
        self._writer = JournalWriter(below, self.journal, self._moments, self._write_part)
        self.failures = 0
        """How many calls failed."""
        self._in_a_row = 0
        self._turns = 0
        self._failed_turn = 0
        self._name = uuid.uuid4().hex[:12]
        self._lanes: Recent[Place, list[str]] = Recent(_LANES_BYTES, _weight)
        self._lanes_made = 0
        self._batches = 0
        self._under_way = UnderWay()
        self._recovering: asyncio.Task[None] | None = None
        self._background = background or Background()
        self._background.expect(_TASK)
        self._closing = False
        self._random_share = random_share
        self._log = structlog.get_logger("ratelimit_service.store")

    async def start(self) -> None:
        """Reach the store below, and note the time by its clock."""
        await super().start()
        await self._moments.now()

    async def ping(self) -> None:
        """Ask the store below whether it can be reached, and note the time by its clock."""
        await super().ping()
        await self._moments.now()

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):
            then([() for _ in groups])
        elif self.open or self._under_way.number >= _MOST_UNDER_WAY:
            error = StoreError("Redis is away" if self.open else "Redis does not keep up")
            self._keep(_Call(groups, EVERYWHERE, then), error)
        else:
            self._write(groups, then)

    def _write(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        parts = self._below.parts(groups)
        if parts is None:
            self._write_part(groups, EVERYWHERE, then)
            return
        written = self._counted(then)
        self._turns += 1

        def all_sent(outcomes: list[Sequence[Outcome]]) -> None:
            written(joined(groups, parts, outcomes))

        for part, answer in zip(parts, together(len(parts), all_sent), strict=True):
            call = _Call(part.groups, part.where, answer, self._turns)
            if part.where in self._writer.shut:
                self._keep(call, StoreError("a part of Redis is away"))
            else:
                self._send(call)

    def _write_part(self, groups: Sequence[Sequence[Hit]], where: Place, then: Then) -> None:
        self._turns += 1
        self._send(_Call(groups, where, self._counted(then), self._turns))

    def _counted(self, then: Then) -> Then:
        """A call is under way until `then` was called."""
        self._under_way.begin()

        def counted(outcomes: Sequence[Outcome]) -> None:
            try:
                then(outcomes)
            finally:
                self._under_way.end()

        return counted

    def _send(self, call: _Call, *, narrowing: bool = False) -> None:
        """Send groups in one call; `narrowing` where Redis refused them together with others, because of their keys."""
        lanes = self._lanes_in(call.where)
        lane = lanes.pop() if lanes else self._new_lane()
        batch = Batch(call.groups, lane, self._next_number(), call.where)
        before = self._moments.last

        def applied(outcome: list[list[Count]] | StoreError) -> None:
            if not isinstance(outcome, StoreError):
                self._in_a_row = 0
                lanes.append(lane)
                call.then(outcome)
                return
            self.failures += 1
            fate = outcome.fate if isinstance(outcome, CallFailed) else Fate.LOST
            if fate in (Fate.LOST, Fate.UNCLEAR):  # and the lane is never used again
                self._put_off(call, outcome, _Sent(lane, batch.number, before))
                return
            if fate is not Fate.BAD_LANE:
                lanes.append(lane)
            if fate is not Fate.FORBIDDEN:
                self._put_off(call, outcome)
            elif narrowing:  # the ACL is changing
                self._put_off(call, CallFailed(str(outcome), Fate.REFUSED, partly=True))
            else:
                self._send_allowed(call, outcome)

        self._below.apply(batch, applied)

    def _send_allowed(self, call: _Call, wrong: StoreError) -> None:
        """Send what an ACL allows of groups that it forbids together; nothing of them was applied."""
        groups = call.groups
        lanes = self._lanes_in(call.where)
        lane = lanes.pop()

        def found(forbidden: set[str] | StoreError) -> None:
            if not isinstance(forbidden, CallFailed) or forbidden.fate is Fate.REFUSED:
                lanes.append(lane)
            if isinstance(forbidden, StoreError):
                self._put_off(call, forbidden)
            elif not forbidden:  # the ACL has changed since
                self._put_off(call, CallFailed(str(wrong), Fate.REFUSED, partly=True))
            elif any(rest := without(forbidden, groups)):

                def sent(outcomes: Sequence[Outcome]) -> None:
                    call.then(with_refusals(forbidden, groups, outcomes, wrong))

                self._send(_Call(rest, call.where, sent, call.turn), narrowing=True)
            else:
                call.then(with_refusals(forbidden, groups, [()] * len(groups), wrong))

        find_forbidden(self._below.apply, groups, Batch((), lane, self._next_number(), call.where), found)

    def _put_off(self, call: _Call, error: StoreError, sent: _Sent | None = None) -> None:
        """Answer with an error, and keep what writes something; with how it was `sent` where it may have been applied."""
        partly = isinstance(error, CallFailed) and (error.partly or error.fate is Fate.BAD_LANE)
        if not partly and call.turn != self._failed_turn:  # all calls of a batch are one failure
            self._failed_turn = call.turn
            self._in_a_row += 1
            if self._in_a_row >= _OPENS_AFTER and not self.open:
                self._open(error)
        self._keep(call, error, sent)
        if call.where != EVERYWHERE and self.journal.entries(call.where) >= _OPENS_AFTER:
            self._writer.shut.add(call.where)

    def _open(self, error: StoreError) -> None:
        self.open = True
        self._log.error(
            "Redis is away: requests get the failure mode's answer, and charges are kept",
            error=str(error),
        )
        self._recover()

    def _lanes_in(self, where: Place) -> list[str]:
        lanes = self._lanes.newest(where)
        if lanes is None:
            lanes = self._lanes.get(where)
            if lanes is None:
                lanes = []
                self._lanes.put(where, lanes)
        return lanes

    def _new_lane(self) -> str:
        self._lanes_made += 1
        return f"{self._name}-{self._lanes_made}"

    def _next_number(self) -> str:
        self._batches += 1
        return str(self._batches)

    def _keep(self, call: _Call, error: StoreError, sent: _Sent | None = None) -> None:
        dropped = self.journal.dropped
        # A server of several that stays away must not fill the journal that the others need for a moment.
        away = call.where != EVERYWHERE and self._below.server_of(call.where) is None
        entry = Entry(call.groups, self._now(), call.where, *(sent or ()))
        self.journal.add(entry, long=away)
        if self.journal.dropped > dropped == 0:
            self._log.error("the journal is full: charges are being lost", hits=self.journal.hits)
        if self.journal.hits:
            self._recover()
        call.then([error if group else () for group in call.groups])

    def _recover(self) -> None:
        if self._recovering is None and not self._closing:
            self._recovering = asyncio.get_running_loop().create_task(self._go_on_trying())

    async def _go_on_trying(self) -> None:
        """Write the journal, and close the circuits; until both are done."""
        pause = _FIRST_RETRY
        closed = False
        try:
            while self.open or self.journal.hits:
                if not closed:
                    await asyncio.sleep(pause * (1 - self._random_share() / 2))
                    pause = min(2 * pause, _LAST_RETRY)
                try:
                    if self.open:
                        await self._below.start()  # the probe: half open
                    shut = len(self._writer.shut)
                    await self._writer.write()
                except StoreError:
                    closed = False
                    continue
                except (
                    Exception
                ) as error:  # a mistake of ours, or of the driver: the journal waits for this task
                    self._background.failed(_TASK, "the journal could not be written", error)
                    closed, pause = False, _AFTER_A_MISTAKE
                    continue
                # What was kept while a circuit was closed is written at once.
                closed = self.open or len(self._writer.shut) < shut
                if self.open:
                    self.open = False
                    self._in_a_row = 0
                    self._log.warning("Redis is back", lost=self.journal.dropped)
                if closed:
                    pause = _FIRST_RETRY
        finally:
            self._recovering = None

    async def close(self) -> None:
        """Finish what is under way, try once more to write what is left, and close."""
        await self._under_way.none()
        self._closing = True
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
            await self._under_way.none()  # what it had just begun to write
        if self.journal.hits:
            why = "a part of Redis is away"
            try:
                await self._writer.write()
            except StoreError as error:
                why = str(error)
            if self.journal.hits:
                self._log.error("charges are lost", hits=self.journal.hits, error=why)
        await super().close()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _weight(where: Place, lanes: list[str]) -> int:
    """About the bytes of memory of a place and a few lanes."""
    return 400 + (len(where) if isinstance(where, str) else 0)
