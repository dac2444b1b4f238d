"""What the service needs from the outside, and what it promises in return: four protocols.

Everything else is plugged in behind these: stores behind CounterStore, metrics and logs behind Observer. Sources of rules
have Rules before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from .core.amendments.model import Applied, AuditLine, Change, News
from .core.decision import Count
from .core.errors import Problem, RateLimitServiceError, StoreError
from .core.model import Decision, Hit
from .core.planning import Plan
from .core.rules.document import Document

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


class AmendmentStore(Protocol):
    """Amendments (core/amendments): what changes limits while the service runs, and what was changed by whom.

    No decision waits for it. Every method raises StoreError where the store cannot be reached, or refuses.
    """

    async def news(self, version: int, stamp: str) -> News:
        """Return what has happened after a version, which `stamp` tells from others with its number.

        It costs one small read where nothing has happened. A version that the store does not know, or has forgotten the
        next steps of, gets all amendments (News.whole).
        """
        ...

    async def apply(self, change: Change, *, dry_run: bool = False) -> Applied:
        """Apply a change in one step: its edits, its idempotency key, and a line for each edit in the audit.

        A change whose key was applied before changes nothing, and returns what it did then. With `dry_run` nothing is
        written. Raises InvalidRequest for a key that another change had, or where there are too many amendments; Conflict
        where an edit would replace something else than expected. A StoreError does not say whether the change was
        applied: to apply it again with the same key settles that.
        """
        ...

    async def audit(self, before: int = 0, most: int = 100) -> Sequence[AuditLine]:
        """Return the edits of versions before this one (0: of all), the latest first; a change is never cut in two."""
        ...


class Observer(Protocol):
    """Told of everything that is decided; must not raise and must not block."""

    def decided(self, plan: Plan, decision: Decision) -> None:
        """A request was decided."""
        ...

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """A request was answered with an error. `plan` is None where not even a plan could be made."""
        ...


Read = Callable[[], tuple[Sequence[Document], Sequence[Problem], Sequence[Problem]]]
"""Returns what there is to load, what was wrong with what is therefore missing from it, and warnings."""


class RuleChange(NamedTuple):
    """What a source of rules has changed: `domains`, whose rules `read` returns, and domains that are `gone`.

    What is wrong with a domain concerns that domain alone; with `whole`, nothing comes into force where anything is wrong.
    `files` are the descriptors of open files that `read` reads.
    """

    read: Read | None = None
    files: tuple[int, ...] = ()
    domains: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    whole: bool = False


class Taken(NamedTuple):
    """What became of a change: the domains whose rules were taken, and what is wrong with the others.

    `again`: it may go well another time. `changed` is whether the rules in force are others than before.
    """

    accepted: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    again: bool = False
    changed: bool = False


class Rules(Protocol):
    """Where a source puts its rules in force."""

    async def change(self, change: RuleChange) -> Taken:
        """Take a change, as far as nothing is wrong with it. What is wrong is logged and counted."""
        ...

    def hidden(self) -> Mapping[str, Problem]:
        """The domains of this source that are in force from another one, and that as a problem."""
        ...

    def blame(self, problems: Sequence[Problem]) -> None:
        """Say what is wrong with what the source wants, all of it."""
        ...
