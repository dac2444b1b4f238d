"""A store in place of Redis, whose calls fail as a test requires."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import Outcome
from ratelimit_service.stores.batch import (
    Batch,
    CallFailed,
    Counts,
    Fate,
    Groups,
    OnApplied,
    OnEachApplied,
    Part,
)
from ratelimit_service.stores.lanes import Place
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.memory import MemoryStore


class Call(NamedTuple):
    """A call of the script as the backend received it; a Batch and its Lane change later."""

    groups: Groups
    place: Place
    lane: str
    number: int | None


class Backend(MemoryStore):
    """Applies batches as hit.lua does, with registers; each of `faults` fails a call "before" or "after" it
    is applied.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__(lambda: 0.0)
        self.faults = list(faults)
        self.registers: dict[str, int] = {}
        self.calls: list[Call] = []
        self.away = False
        self.clock: float | None = None
        """The time of Redis; None if it does not report its time."""
        self.fates: dict[str, Fate] = {}
        """Keys whose calls fail; nothing of them is applied."""

    def split(self, groups: Groups) -> Sequence[Part] | None:
        return None

    def server_of(self, place: Place) -> object:
        return place

    async def time(self) -> float | None:
        return self.clock

    async def start(self) -> None:
        if self.away:
            raise StoreError("away")

    def apply(self, batch: Batch, on_applied: OnApplied) -> None:
        lane = batch.sent
        call = Call(batch.groups, batch.place, lane.name if lane else "", lane.number if lane else None)
        self.calls.append(call)
        asyncio.get_running_loop().call_soon(lambda: on_applied(self.apply_or_fail(call)))

    def apply_each(self, batches: Sequence[Batch], on_applied: OnEachApplied) -> None:
        for number, batch in enumerate(batches):
            self.apply(batch, partial(on_applied, number))

    def apply_or_fail(self, call: Call) -> Counts | StoreError:
        fault = self.faults.pop(0) if self.faults else ""
        if self.away or fault == "before":
            return StoreError("not sent")
        keys = {hit.key for group in call.groups for hit in group}
        for key, fate in self.fates.items():
            if key in keys:
                return CallFailed(fate.value, fate)
        outcomes: list[Outcome] = []
        groups = call.groups
        if call.number is not None:
            if self.registers.get(call.lane) == call.number:
                groups = [[hit.changed(amount=0) for hit in group] for group in groups]
            self.registers[call.lane] = call.number
        self.hit(groups, outcomes.extend)
        if fault == "after":
            return StoreError("the answer was lost")
        return [list(outcome) for outcome in outcomes if not isinstance(outcome, StoreError)]


async def charge(store: SettlingStore, *keys: str, amount: int = 1) -> list[Outcome]:
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([[Hit(key, amount, ttl=60) for key in keys]], answer.set_result)
    return list(await asyncio.wait_for(answer, 10))


async def settled(store: SettlingStore) -> None:
    """Wait until the journal is empty and the circuit closed."""
    async with asyncio.timeout(60):
        while store._recovering is not None:
            await asyncio.wait([store._recovering])
