"""Writes the journal place by place, so that no server and no batch delays others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from ...core.errors import CounterRefused, StoreError
from ...core.model import Hit
from ...ports import OnOutcomes, Outcome
from ..batch import Batch, CallFailed, Fate, Groups, result_of
from ..batch_age import Clocks
from ..lanes import EVERYWHERE, REGISTER_TTL, Place
from .backend import Backend
from .journal import Journal, still_counting

_PLACES_AT_ONCE = 64
"""Places that are written concurrently."""

_OF_ONE_BATCH = (Fate.UNCLEAR, Fate.BAD_LANE, Fate.FORBIDDEN)
"""Fates that may concern only this batch: the next batch of the place is still tried."""


class JournalWriter:
    """Writes `journal` to the store below. `resend` sends one batch, and puts it back if that fails."""

    def __init__(
        self, below: Backend, journal: Journal, clocks: Clocks, resend: Callable[[Batch, OnOutcomes], None]
    ) -> None:
        self._below = below
        self._journal = journal
        self._clocks = clocks
        self._resend = resend
        self.open_circuits: set[Place] = set()
        """Places whose own circuit is open. It closes once every batch of the place has been tried."""

    async def write(self) -> None:
        """Try every batch once, except those of servers that are away. Raises StoreError if all of Redis
        fails.

        A batch that fails stays in the journal, and delays no other.
        """
        await self._split_by_place()
        away: set[object] = set()
        places = self._journal.places()
        for first in range(0, len(places), _PLACES_AT_ONCE):
            some = places[first : first + _PLACES_AT_ONCE]
            for error in await asyncio.gather(*[self._write_place(place, away) for place in some]):
                if error is not None and not (isinstance(error, CallFailed) and error.partly):
                    raise error

    async def _split_by_place(self) -> None:
        """Split the batches that were kept while one call was thought to reach every key."""
        for _ in range(self._journal.batches_at(EVERYWHERE)):
            batch = self._journal.take(EVERYWHERE)
            parts = None if batch.sent is not None else self._below.split(batch.groups)
            if parts is None:
                self._journal.put_back(batch)
            else:
                for part in parts:
                    self._journal.put_back(Batch(part.groups, part.place, kept_at=batch.kept_at))
                await asyncio.sleep(0)  # let calls go on
            if not self._journal.batches_at(EVERYWHERE):
                return

    async def _write_place(self, place: Place, away: set[object]) -> StoreError | None:
        """Try every batch of a place once.

        Return an error after which this pass sends nothing more to the server of the place.
        """
        left = self._journal.batches_at(place)
        while left > 0:
            server = self._below.server_of(place)
            if server is None or server in away:
                return None
            # From here to `take` only this task touches the front of the queue.
            age = await self._age(self._journal.next_at(place))
            before = self._journal.batches_at(place)
            batch = self._journal.take(place)
            left -= before - self._journal.batches_at(place)
            error = await self._write_batch(batch, age)
            if error is not None:
                away.add(server)
                return error
        self.open_circuits.discard(place)
        return None

    async def _write_batch(self, batch: Batch, age: float | None) -> StoreError | None:
        """Write a batch, unless its register may have expired. If writing fails, the batch is back in the
        journal.

        Return an error after which nothing more is tried in this place for now.
        """
        if batch.sent is None:
            batch.groups = still_counting(batch, _now())
            if not any(batch.groups):
                return None
        elif age is None:
            self._journal.put_back(batch)
            return None
        elif age > REGISTER_TTL / 2:
            self._journal.give_up(batch)
            return None
        # The batch is written or kept even if this task is cancelled meanwhile.
        outcomes: Sequence[Outcome] = await result_of(lambda on_resent: self._resend(batch, on_resent))
        stop: StoreError | None = None
        for hit, error in _failures(batch.groups, outcomes):
            if isinstance(error, CounterRefused):
                self._journal.dropped += bool(hit.amount)
            elif not (isinstance(error, CallFailed) and error.fate in _OF_ONE_BATCH):
                stop = stop or error
        return stop

    async def _age(self, batch: Batch) -> float | None:
        """Return an upper bound of the seconds since a batch was sent; None while Redis does not report its
        time.
        """
        if batch.sent is None:
            return 0.0
        before = batch.sent.before
        if before is None:
            return _now() - batch.kept_at
        now = await self._clocks.read()
        age = before.age(now)
        if before.redis is not None and now.redis is None and age <= REGISTER_TTL / 2:
            return None
        return age


def _now() -> float:
    return asyncio.get_running_loop().time()


def _failures(groups: Groups, outcomes: Sequence[Outcome]) -> Iterator[tuple[Hit, StoreError]]:
    """Yield each hit that failed, and its error."""
    for group, outcome in zip(groups, outcomes, strict=True):
        for index, hit in enumerate(group):
            count = outcome if isinstance(outcome, StoreError) else outcome[index]
            if isinstance(count, StoreError):
                yield hit, count
