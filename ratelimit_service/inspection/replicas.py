"""The register of replicas: reports what this replica has in force, and returns what the others have.

Registry ──meet(standing)──▶ store     every few seconds, and at once when something has changed
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from ..core.errors import StoreError
from ..ports import InForce, Replica, ReplicaStore

EVERY = 2.0
"""Seconds between two calls of the store if nothing changes."""

_LOOK = 0.25
"""Seconds between two checks of what is in force here."""

_LEAVING = 1.0
"""Seconds for removing this replica from the register when it stops."""


class Registry:
    """The register of replicas in `store`, as this one sees it. `standing` returns what is in force here."""

    def __init__(self, store: ReplicaStore, standing: Callable[[], InForce], name: str = "") -> None:
        self._store = store
        self._standing = standing
        self._generation = 0
        self._reported: InForce | None = None
        self._failing = ""
        self._log = structlog.get_logger("ratelimit_service.replicas")
        self.name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
        """The name of this replica: its host, and a text that no other process has."""

    @property
    def generation(self) -> int:
        """Return the generation of the rules in force here; 0 until the store has returned it."""
        return self._generation

    async def replicas(self) -> Sequence[Replica]:
        """Return all replicas, this one included. Raises StoreError."""
        standing = self._standing()
        found = await self._store.meet(self.name, standing)
        self._reported = standing
        self._generation = next((each.generation for each in found if each.id == self.name), 0)
        return sorted(found, key=lambda each: each.id)

    async def run(self) -> None:
        """Report what is in force here until cancelled."""
        pause = EVERY
        while True:
            if pause >= EVERY or self._standing() != self._reported:
                pause = 0.0
                await self._try()
            await asyncio.sleep(_LOOK)
            pause += _LOOK

    async def leave(self) -> None:
        """Remove this replica, so that no change waits for it."""
        if self._reported is None:
            return
        with suppress(StoreError, TimeoutError):
            await asyncio.wait_for(self._store.leave(self.name), _LEAVING)

    async def _try(self) -> None:
        try:
            await self.replicas()
        except StoreError as error:
            if str(error) != self._failing:
                self._log.warning("the other replicas do not see this one", error=str(error))
            self._failing = str(error)
        else:
            if self._failing:
                self._log.info("the other replicas see this one again")
            self._failing = ""
