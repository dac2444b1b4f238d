"""Nothing is lost and nothing is counted twice, whatever becomes of a call to Redis.

Every call of the script carries the name of a lane and the number of its batch. The script keeps the number of the last
batch that it applied in the lane's register, and applies a batch whose number it finds there no second time. A lane has one
batch under way at a time. So a batch whose outcome is not known can be sent again, as often as it takes: it is applied once.
After that its lane is given up, because the first call may still be somewhere on its way.

What could not be written is kept in a journal, in memory and bounded, and written when Redis is back. While Redis is away
(the circuit is open), calls are not even tried: they are answered with an error at once, and go to the journal.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import structlog

from ...background.tasks import Background
from ...core.decision import Count
from ...core.errors import StoreError
from ...core.model import Hit, HitValues
from ...ports import CounterStore, Outcome, Then
from ..batch import (
    EVERYWHERE,
    REGISTER_TTL,
    Applied,
    Batch,
    Part,
    PartlyAway,
    UnderWay,
    joined,
    together,
    told,
)
from .layer import Layer

_OPENS_AFTER = 3
"""This many calls in a row that fail open the circuit."""

_AFTER_A_MISTAKE = 10.0
"""The same where something failed that should not: each time is a traceback in the log."""

_TASK = "journal"
"""What failures of writing the journal are counted under."""

_FIRST_RETRY, _LAST_RETRY = 0.05, 0.5
"""Seconds between two tries to reach Redis: from, to; each is shortened at random by up to a half."""

_MOST_UNDER_WAY = 64
"""Calls that wait for Redis; while there are so many, hits go to the journal."""

_MOST_AT_ONCE = 1_000
"""Hits of the journal in one call."""


class Backend(CounterStore, Protocol):
    """What this layer needs of a Redis store."""

    def parts(self, groups: Sequence[Sequence[HitValues]]) -> Sequence[Part] | None:
        """Split groups by what one call can reach: by slot in a Cluster. None where one call reaches everything."""
        ...

    def apply(self, batch: Batch, then: Applied) -> None:
        """Apply a batch unless it was applied before, and tell `then` the counts of each group.

        Or a StoreError, where it is not known to have been applied. Never raises, and calls `then` once, on the loop; what
        is told of a batch that was applied before is of no use.
        """
        ...


class Entry(NamedTuple):
    """A batch of the journal; with a lane where it was sent and its outcome is not known. `at` is the loop's time."""

    groups: Sequence[Sequence[HitValues]]
    at: float
    lane: str = ""
    number: str = ""


class Journal:
    """Hits that are still to be written: at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: deque[Entry] = deque()
        self.hits = 0
        """How many hits it holds."""
        self.dropped = 0
        """How many hits it had no room for, or could not settle in time."""

    def add(self, entry: Entry) -> None:
        """Keep the hits of `entry` that write something."""
        groups = [group for group in entry.groups if any(amount for _, amount, _, _, _ in group)]
        size = sum(map(len, groups))
        if not size:
            return
        if self.hits + size > self._capacity:
            self.dropped += size
            return
        self.hits += size
        # One that was sent must be sent again just as it was.
        self._entries.append(entry if entry.lane else entry._replace(groups=groups))

    def give_up(self, entry: Entry) -> None:
        """Count the hits of an entry that was taken out as lost."""
        self.dropped += sum(bool(amount) for group in entry.groups for _, amount, _, _, _ in group)

    def take(self) -> Entry | None:
        """Take the next entry out; those that were never sent are put together, up to a bound."""
        if not self._entries:
            return None
        entry = self._entries.popleft()
        self.hits -= _writing(entry)
        if entry.lane:
            return entry
        groups = list(entry.groups)
        size = sum(map(len, groups))
        while self._entries and not self._entries[0].lane and size < _MOST_AT_ONCE:
            more = self._entries.popleft()
            self.hits -= _writing(more)
            groups += [_aged(group, more.at - entry.at) for group in more.groups]
            size += sum(map(len, more.groups))
        return Entry(groups, entry.at)

    def put_back(self, entry: Entry) -> None:
        """Put an entry back in front."""
        self._entries.appendleft(entry)
        self.hits += _writing(entry)


def _writing(entry: Entry) -> int:
    return sum(len(group) for group in entry.groups if any(amount for _, amount, _, _, _ in group))


def _aged(group: Sequence[HitValues], seconds: float) -> Sequence[HitValues]:
    """A group as if it had been handed over so much earlier: its times to live are longer by that."""
    return [(key, amount, ttl + int(seconds), limit, gate) for key, amount, ttl, limit, gate in group]


def _still_counting(groups: Sequence[Sequence[HitValues]], seconds: float) -> list[Sequence[HitValues]]:
    """Groups that were handed over `-seconds` ago, without the hits whose windows are over by now."""
    return [[hit for hit in map(Hit._make, _aged(group, seconds)) if hit.ttl > 0] for group in groups]


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
        self.failures = 0
        """How many calls failed."""
        self._in_a_row = 0
        self._name = uuid.uuid4().hex[:12]
        self._lanes: dict[int, list[str]] = {}
        self._lanes_made = 0
        self._batches = 0
        self._under_way = UnderWay()
        self._recovering: asyncio.Task[None] | None = None
        self._background = background or Background()
        self._background.expect(_TASK)
        self._closing = False
        self._random_share = random_share
        self._log = structlog.get_logger("ratelimit_service.store")

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):
            then([() for _ in groups])
        elif self.open or self._under_way.number >= _MOST_UNDER_WAY:
            self._keep(Entry(groups, self._now()))
            then(_errors(groups, StoreError("Redis is away" if self.open else "Redis does not keep up")))
        else:
            self._write(groups, then)

    def _write(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        self._under_way.begin()

        def written(outcomes: Sequence[Outcome]) -> None:
            try:
                then(outcomes)
            finally:
                self._under_way.end()

        parts = self._below.parts(groups)
        if parts is None:
            self._send(groups, EVERYWHERE, written)
            return

        def all_sent(outcomes: list[Sequence[Outcome]]) -> None:
            written(joined(groups, parts, outcomes))

        for part, answer in zip(parts, together(len(parts), all_sent), strict=True):
            self._send(part.groups, part.where, answer)

    def _send(self, groups: Sequence[Sequence[HitValues]], where: int, then: Then) -> None:
        lanes = self._lanes.setdefault(where, [])
        lane = lanes.pop() if lanes else self._new_lane()
        self._batches += 1
        batch = Batch(groups, lane, str(self._batches), where)

        def applied(outcome: list[list[Count]] | StoreError) -> None:
            if isinstance(outcome, StoreError):
                self._failed(outcome)
                self._keep(Entry(groups, self._now(), lane, batch.number))  # and the lane is never used again
                then(_errors(groups, outcome))
            else:
                self._in_a_row = 0
                lanes.append(lane)
                then(outcome)

        self._below.apply(batch, applied)

    def _new_lane(self) -> str:
        self._lanes_made += 1
        return f"{self._name}-{self._lanes_made}"

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        if isinstance(error, PartlyAway):
            return
        self._in_a_row += 1
        if self._in_a_row >= _OPENS_AFTER and not self.open:
            self.open = True
            self._log.error(
                "Redis is away: requests get the failure mode's answer, and charges are kept",
                error=str(error),
            )
            self._recover()

    def _keep(self, entry: Entry) -> None:
        dropped = self.journal.dropped
        self.journal.add(entry)
        if self.journal.dropped > dropped == 0:
            self._log.error("the journal is full: charges are being lost", hits=self.journal.hits)
        if self.journal.hits:
            self._recover()

    def _recover(self) -> None:
        if self._recovering is None and not self._closing:
            self._recovering = asyncio.get_running_loop().create_task(self._go_on_trying())

    async def _go_on_trying(self) -> None:
        """Write the journal, and close the circuit; until both are done."""
        pause = _FIRST_RETRY
        try:
            while self.open or self.journal.hits:
                await asyncio.sleep(pause * (1 - self._random_share() / 2))
                pause = min(2 * pause, _LAST_RETRY)
                try:
                    if self.open:
                        await self._below.start()  # the probe: half open
                    await self._write_journal()
                except StoreError:
                    continue
                except (
                    Exception
                ) as error:  # a mistake of ours, or of the driver: the journal waits for this task
                    self._background.failed(_TASK, "the journal could not be written", error)
                    pause = _AFTER_A_MISTAKE
                    continue
                if self.open:
                    self.open = False
                    self._in_a_row = 0
                    self._log.warning("Redis is back", lost=self.journal.dropped)
        finally:
            self._recovering = None

    async def _write_journal(self) -> None:
        while (entry := self.journal.take()) is not None:
            if entry.lane:
                await self._settle(entry)
            else:
                for outcome in await self._written(_still_counting(entry.groups, entry.at - self._now())):
                    if isinstance(outcome, StoreError):  # it is back in the journal, under its number
                        raise outcome

    async def _written(self, groups: Sequence[Sequence[HitValues]]) -> Sequence[Outcome]:
        """What came of groups; they are written, or kept, even where the task that waits is cancelled."""
        if not any(groups):
            return []
        return await told(lambda then: self._write(groups, then))

    async def _settle(self, entry: Entry) -> None:
        """Send a batch again whose outcome is not known."""
        if self._now() - entry.at > REGISTER_TTL / 2:
            self.journal.give_up(entry)
            return
        batch = Batch(entry.groups, entry.lane, entry.number)
        try:
            outcome: object = await told(lambda then: self._below.apply(batch, then))
            if isinstance(outcome, StoreError):
                raise outcome
        except BaseException:
            self.journal.put_back(entry)
            raise

    async def close(self) -> None:
        """Finish what is under way, try once more to write what is left, and close."""
        await self._under_way.none()
        self._closing = True
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
            await self._under_way.none()  # what it had just begun to write
        if self.journal.hits:
            try:
                await self._write_journal()
            except StoreError as error:
                self._log.error("charges are lost", hits=self.journal.hits, error=str(error))
        await super().close()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _errors(groups: Sequence[Sequence[HitValues]], error: StoreError) -> list[Outcome]:
    return [error if group else () for group in groups]
