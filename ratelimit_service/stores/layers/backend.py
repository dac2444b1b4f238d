"""What the settling layer needs of a Redis store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...core.model import Hit
from ...ports import CounterStore
from ..batch import Applied, Batch, Part, Place


class Backend(CounterStore, Protocol):
    """What this layer needs of a Redis store."""

    def parts(self, groups: Sequence[Sequence[Hit]]) -> Sequence[Part] | None:
        """Split groups by what one call can reach: by slot in a Cluster. None where one call reaches everything."""
        ...

    def server_of(self, where: Place) -> object:
        """What stands for the server that has a place; None where that one is known to be away."""
        ...

    async def time(self) -> float | None:
        """Seconds by the clock of Redis, by which registers expire; None where it does not tell. Never raises."""
        ...

    def apply(self, batch: Batch, then: Applied) -> None:
        """Apply a batch unless it was applied before, and tell `then` the counts of each group.

        Or a StoreError, where it is not known to have been applied: a CallFailed says more. Never raises, and calls `then`
        once, on the loop; what is told of a batch that was applied before is of no use. A batch without groups writes the
        register, and so tells whether Redis would accept one.
        """
        ...
