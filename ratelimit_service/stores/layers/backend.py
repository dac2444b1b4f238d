"""The interface between the settling layer and a Redis store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...ports import CounterStore
from ..batch import Batch, Groups, OnApplied, OnEachApplied, Part
from ..lanes import Place


class Backend(CounterStore, Protocol):
    """A store in Redis, one script call at a time."""

    def split(self, groups: Groups) -> Sequence[Part] | None:
        """Split groups so that one script call reaches all keys of a part; None if one call reaches every
        key.
        """
        ...

    def server_of(self, place: Place) -> object:
        """Return an object that stands for the server of a place; None if that server is known to be away."""
        ...

    async def time(self) -> float | None:
        """Return the time of Redis in seconds, by which registers expire; None if Redis does not report it.

        Never raises.
        """
        ...

    def apply(self, batch: Batch, on_applied: OnApplied) -> None:
        """Apply a batch unless it was applied before, and pass the counts of its groups to `on_applied`.

        If it may not have been applied, pass a StoreError instead; a CallFailed has the details. The counts
        of a batch that had been applied before have no meaning. Never raises; `on_applied` is called once, on
        the event loop. A batch without groups shows whether Redis accepts writes.
        """
        ...

    def apply_each(self, batches: Sequence[Batch], on_applied: OnEachApplied) -> None:
        """Apply batches as `apply` does, each by itself; `on_applied` is called once for each of them."""
        ...
