"""Writes the journal: each place by itself, so that a server which stays away, or a batch which always fails, holds nothing up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from ...core.errors import CounterRefused, StoreError
from ...core.model import Hit
from ...ports import Outcome, Then
from ..batch import EVERYWHERE, REGISTER_TTL, Batch, CallFailed, Fate, Place, told
from .backend import Backend
from .journal import Entry, Journal, still_counting
from .moments import Moments

_PLACES_AT_ONCE = 64
"""Places whose parts of the journal are written side by side."""


class JournalWriter:
    """Writes `journal` to the store below. `send` sends groups of one place in one call, and keeps what fails."""

    def __init__(
        self,
        below: Backend,
        journal: Journal,
        moments: Moments,
        send: Callable[[Sequence[Sequence[Hit]], Place, Then], None],
    ) -> None:
        self._below = below
        self._journal = journal
        self._moments = moments
        self._send = send
        self.shut: set[Place] = set()
        """Places that have a circuit of their own open; what waits for one of them is tried before it is closed."""

    async def write(self) -> None:
        """Try every entry once, but for those of servers that are away. Raises the StoreError of Redis as a whole.

        An entry that fails by itself stays, and holds nothing up.
        """
        await self._split_by_place()
        away: set[object] = set()
        places = self._journal.places()
        for first in range(0, len(places), _PLACES_AT_ONCE):
            some = places[first : first + _PLACES_AT_ONCE]
            for wrong in await asyncio.gather(*[self._write_place(place, away) for place in some]):
                if wrong is not None and not (isinstance(wrong, CallFailed) and wrong.partly):
                    raise wrong

    async def _split_by_place(self) -> None:
        """Where one call does not reach everything, move what was kept before it was split."""
        for _ in range(self._journal.entries(EVERYWHERE)):
            entry = self._journal.take(EVERYWHERE)
            parts = None if entry.lane else self._below.parts(entry.groups)
            if parts is None:
                self._journal.put_back(entry)
            else:
                for part in parts:
                    self._journal.put_back(Entry(part.groups, entry.at, part.where))
                await asyncio.sleep(0)  # calls go on
            if not self._journal.entries(EVERYWHERE):
                return

    async def _write_place(self, where: Place, away: set[object]) -> StoreError | None:
        """Try every entry of a place once; returns why its server takes none, if that is so."""
        left = self._journal.entries(where)
        while left > 0:
            server = self._below.server_of(where)
            if server is None or server in away:
                return None
            before = self._journal.entries(where)
            entry = self._journal.take(where)
            left -= before - self._journal.entries(where)
            wrong = await (self._settle(entry) if entry.lane else self._write_anew(entry))
            if wrong is not None:
                away.add(server)
                return wrong
        self.shut.discard(where)
        return None

    async def _write_anew(self, entry: Entry) -> StoreError | None:
        """Send what was never sent, or never applied; what fails is back in the journal.

        Returns an error after which nothing more is tried in this place for now.
        """
        groups = still_counting(entry, _now())
        if not any(groups):
            return None
        # It is written, or kept, even where the task that waits is cancelled.
        outcomes: Sequence[Outcome] = await told(lambda then: self._send(groups, entry.where, then))
        stop: StoreError | None = None
        for hit, error in _failures(groups, outcomes):
            if isinstance(error, CounterRefused):
                self._journal.dropped += bool(hit.amount)
            elif stop is None and not (isinstance(error, CallFailed) and error.fate is Fate.UNCLEAR):
                stop = error
        return stop

    async def _settle(self, entry: Entry) -> StoreError | None:
        """Send a batch again whose outcome is not known. Returns an error after which nothing more is tried for now."""
        outcome: object = None
        done = False
        try:
            age = await self._age(entry)
            if age is None:
                return None
            if age > REGISTER_TTL / 2:
                self._journal.give_up(entry)
                done = True
                return None
            batch = Batch(entry.groups, entry.lane, entry.number, entry.where)
            outcome = await told(lambda then: self._below.apply(batch, then))
            done = not isinstance(outcome, StoreError)
        finally:
            if not done:
                self._journal.put_back(entry)
        if isinstance(outcome, CallFailed) and outcome.fate not in (Fate.LOST, Fate.REFUSED):
            return None  # it may be this batch alone
        return outcome if isinstance(outcome, StoreError) else None

    async def _age(self, entry: Entry) -> float | None:
        """How long ago a batch was sent, at most; None where Redis has told its time before and does not do so now."""
        if entry.before is None:
            return _now() - entry.at
        now = await self._moments.now()
        age = entry.before.age(now)
        if entry.before.redis is not None and now.redis is None and age <= REGISTER_TTL / 2:
            return None
        return age


def _now() -> float:
    return asyncio.get_running_loop().time()


def _failures(
    groups: Sequence[Sequence[Hit]], outcomes: Sequence[Outcome]
) -> Iterator[tuple[Hit, StoreError]]:
    """Each hit that failed, and why."""
    for group, outcome in zip(groups, outcomes, strict=True):
        for number, hit in enumerate(group):
            count = outcome if isinstance(outcome, StoreError) else outcome[number]
            if isinstance(count, StoreError):
                yield hit, count
