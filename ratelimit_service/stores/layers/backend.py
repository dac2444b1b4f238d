"""What the settling layer needs of a Redis store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...ports import CounterStore
from ..batch import Batch, Groups, OnApplied, Part
from ..lanes import Place


class Backend(CounterStore, Protocol):
    """A store in Redis, one script call at a time."""

    def split(self, groups: Groups) -> Sequence[Part] | None:
        """Split groups by what one script call can reach; None where one call reaches every key."""
        ...

    def server_of(self, place: Place) -> object:
        """Return an object for the server of a place; None where that server is known to be away."""
        ...

    async def time(self) -> float | None:
        """Return the seconds of Redis' clock, by which registers expire; None where Redis does not say.

        Never raises.
        """
        ...

    def apply(self, batch: Batch, on_applied: OnApplied) -> None:
        """Apply a batch unless it was applied before, and pass the counts of its groups to `on_applied`.

        Where it may not have been applied, a StoreError takes the place of the counts; a CallFailed says
        more. The counts of a batch that had been applied before have no meaning. Never raises; `on_applied`
        is called once, on the loop. A batch without groups shows whether Redis would accept one that writes.
        """
        ...
