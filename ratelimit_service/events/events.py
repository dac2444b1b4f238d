"""Emits the events of one process, and delivers events in the process that leads."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence

from ..core.errors import StartError, StoreError
from ..ports import AmendmentStore, Clock, EventStore
from ..runtime.tasks import Background
from .delivery import Delivery
from .emitting import Emitter
from .receivers import Receiver

_AUDIT_EVERY = 1.0
"""Seconds between two checks of the audit of amendments."""

_STORE_EVERY = 0.5
"""Seconds between two checks of whether the store is reachable."""

_MOST_LINES = 200
"""Changes of limits that are noticed in one check."""

_PAUSE = 2.0
"""Seconds before the next attempt after a failure of the store."""


class Events:
    """Emits and delivers.

    `version` returns the version of the amendments, `name` the name of this process, and `reached` whether the store is reachable.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        store: EventStore,
        amendments: AmendmentStore,
        version: Callable[[], int],
        clock: Clock,
        name: Callable[[], str],
        reached: Callable[[], bool],
        cacert: str = "",
    ) -> None:
        self.emitter = Emitter(store, clock, name)
        self._store = store
        self._amendments = amendments
        self._version = version
        self._reached = reached
        verify = None
        if cacert:
            try:
                verify = ssl.create_default_context(cafile=cacert)
            except (OSError, ssl.SSLError) as error:
                raise StartError(f"EVENTS_CACERT: {cacert} cannot be used: {error}") from None
        self.deliveries = tuple(Delivery(receiver, store, clock, name, verify) for receiver in receivers)

    def keep(self, background: Background) -> None:
        """Emit from now on."""
        background.keep("events", self._emit)
        background.keep("events_store", self._watch_store)

    def lead(self, background: Background) -> None:
        """Deliver, and notice changes of limits, from now on: one process for all workers."""
        background.keep("events_audit", self._audit)
        for delivery in self.deliveries:
            background.keep(f"events_{delivery.receiver.name}", delivery.run)

    def counts(self) -> Iterator[tuple[str, str, int]]:
        """Yield the receiver, the outcome and the number of deliveries."""
        for delivery in self.deliveries:
            name = delivery.receiver.name
            yield name, "delivered", delivery.delivered
            yield name, "failed", delivery.failures
            yield name, "dropped", delivery.dropped

    async def _emit(self) -> None:
        # The store keeps events for a receiver from `open` on, so that comes first.
        for delivery in self.deliveries:
            while True:
                try:
                    await self._store.open(delivery.receiver.name)
                    break
                except StoreError:
                    await asyncio.sleep(_PAUSE)
        await self.emitter.run()

    async def _watch_store(self) -> None:
        before: bool | None = None
        while True:
            reached = self._reached()
            if before is not None or reached:  # at the start it is not reached yet
                if before is not None and before != reached:
                    self.emitter.store_is(reached)
                before = reached
            await asyncio.sleep(_STORE_EVERY)

    async def _audit(self) -> None:
        seen: int | None = None
        while True:
            version = self._version()
            if version != seen:
                try:
                    self.emitter.audited(await self._amendments.audit(most=_MOST_LINES))
                    seen = version
                except StoreError:
                    pass
            await asyncio.sleep(_AUDIT_EVERY)
