"""A memory store that keeps its counters in a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .snapshot_store import SnapshotStore


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[SnapshotStore]:
    """A SnapshotStore whose file does not exist yet."""
    directory = tmp_path / "kept"
    directory.mkdir()
    kept = SnapshotStore(directory / "counters")
    yield kept
    for store in kept.stores:
        await store.close()
