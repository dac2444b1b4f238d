"""A memory store that keeps its counters in a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ratelimit_service.core.model import Hit
from ratelimit_service.stores.snapshot import KeptMemoryStore, read

NOW = 1_795_249_200.0
LONG, SOON = 3_600.0, 0.001
"""Intervals between writes: longer than any test, and none."""

DBA, OPS = "{d|team=dba}:hour:2026-11-21T08Z", "{d|team=ops}:day:2026-11-21"


class SnapshotStore:
    """Stores over one snapshot file, in succession, as the processes that use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        """The monotonic clock; it may start at any value."""
        self.day = NOW
        """The wall clock; it may be wrong."""
        self.stores: list[KeptMemoryStore] = []

    async def start(self, interval: float = LONG) -> KeptMemoryStore:
        """Return the store of a new process."""
        store = KeptMemoryStore(lambda: self.now, self.path, interval, wall=lambda: self.day)
        self.stores.append(store)
        await store.start()
        return store

    async def restart(self) -> KeptMemoryStore:
        """Stop the process, and start another one."""
        await self.stores[-1].close()
        return await self.start()

    @property
    def on_disk(self) -> dict[str, int]:
        """Return the counters that a new process would load."""
        return {counter.key: counter.value for counter in read(self.path).counters}

    @property
    def files(self) -> list[str]:
        """Return the names of all files in the directory of the snapshot, including its own."""
        return sorted(file.name for file in self.path.parent.iterdir())


def charge(store: KeptMemoryStore, key: str, amount: int, ttl: int = 3600) -> Any:
    """Charge a counter, and return its previous count."""
    before: list[Any] = []
    store.hit([[Hit(key, amount, ttl=ttl)]], before.extend)
    ((count,),) = before
    return count


def sealed(body: str, count: int) -> bytes:
    """Return the content of a file with a valid checksum."""
    return f"{body}end {count} {hashlib.sha256(body.encode()).hexdigest()}\n".encode()
