"""What the service needs from the outside, and what it promises in return: three protocols.

Everything else is plugged in behind these: stores behind CounterStore, metrics and logs behind Observer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .core.decision import Count
from .core.errors import RateLimitServiceError, StoreError
from .core.model import Decision, Hit
from .core.planning import Plan

Clock = Callable[[], float]
"""Seconds since 1970, as the wall has them."""

Outcome = Sequence[Count] | StoreError
"""What became of one group of hits: a count for each of them, in their order, or the error that all of them met.

A count is what the counter held before the hit (`core.decision`); a single StoreError in its place means that this hit
alone failed.
"""

Then = Callable[[Sequence[Outcome]], None]


class CounterStore(Protocol):
    """Counters: one integer for each key, with a time to live."""

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits, one group a request, in their order, and hand what came of them to `then`.

        - Never raises. `then` is called exactly once, on the event loop, with one outcome for each group; at once or
          later: callers assume neither.
        - Hits are applied one after another, each seeing those before it. A group is one step: nothing comes between
          its hits, nor between deciding whether the group is refused (model.Gate) and counting it.
        - A group is refused where any of its hits with Gate.REFUSES is over, by the counters as they are before the
          group: where its counter and its amount make more than its limit, or with Gate.BUDGET, where the counter has
          reached the limit already. A refund is never over.
        - In a refused group, hits with Gate.HOLDS are not counted, nor those with Gate.YIELDS that are not over.
        - amount > 0 adds, saturating at COUNTER_MAX; 0 reads and writes nothing; < 0 gives back, never below 0.
        - A counter that is created, or has no time to live, gets the hit's.
        - A counter that holds something else fails its own hit; the others are counted.
        - Once handed over, a hit is applied whatever becomes of the caller.
        """
        ...

    async def start(self) -> None:
        """Reach the store. Raises StoreError where that fails; the store goes on trying when it is used."""
        ...

    async def close(self) -> None:
        """Finish what is under way, then let go of the store."""
        ...

    async def ping(self) -> None:
        """Raise StoreError unless the store can be reached now."""
        ...

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters whose key starts with `bucket`, by key (None: not a number). Raises StoreError."""
        ...

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters whose key starts with `bucket`, and return their last values. Raises StoreError."""
        ...


class Observer(Protocol):
    """Told of everything that is decided; must not raise and must not block."""

    def decided(self, plan: Plan, decision: Decision) -> None:
        """A request was decided."""
        ...

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """A request was answered with an error. `plan` is None where not even a plan could be made."""
        ...
