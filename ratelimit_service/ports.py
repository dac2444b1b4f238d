"""The interfaces between the service and its surroundings.

Stores implement CounterStore and AmendmentStore. Metrics and logs implement Observer. Sources of rules use
Rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from .core.amendments.model import AuditLine, Change, ChangeResult, News
from .core.decision import Count
from .core.errors import Problem, RateLimitServiceError, StoreError
from .core.model import Decision, Hit
from .core.plan import Plan
from .core.rules.document import Read

Clock = Callable[[], float]
"""Returns the wall time, in seconds since 1970."""

Outcome = Sequence[Count] | StoreError
"""The outcome of one group of hits: a count for each hit, or the error of the whole group.

A count is the value of the counter before the hit (core/decision.py). A StoreError instead of a count is the
error of that hit alone.
"""

OnOutcomes = Callable[[Sequence[Outcome]], None]
"""A callback with one outcome for each group."""


class WalkStep(NamedTuple):
    """One step of a walk through the keys of a store: some keys, and where the next step begins (empty: at
    the end).
    """

    keys: Sequence[str]
    position: str


class PendingEvent(NamedTuple):
    """An event for a receiver: its place in the store, and its text."""

    place: str
    text: str


class DroppedEvent(NamedTuple):
    """The text of an event that the store dropped before any replica took it for this receiver."""

    receiver: str
    text: str


class EmitResult(NamedTuple):
    """Whether an event is new, and the events that the store dropped for it."""

    new: bool
    dropped: Sequence[DroppedEvent] = ()


class EventStore(Protocol):
    """Events on their way to receivers, each of which gets every event. Methods raise StoreError."""

    async def emit(self, event_id: str, text: str, kept: int) -> EmitResult:
        """Store an event, unless one with this id was emitted in the last `kept` seconds. Return whether it
        is new.

        The oldest event is dropped if there are too many. The result has it once for each receiver for which
        no replica took it.
        """
        ...

    async def open(self, receiver: str) -> None:
        """Begin to store events for a receiver. It gets no earlier events."""
        ...

    async def take(self, receiver: str, replica: str, most: int) -> Sequence[PendingEvent]:
        """Return events for a receiver, which this replica has to deliver. They are events that no replica
        has taken, or that another replica has taken, and has not held for a minute.
        """
        ...

    async def hold(self, receiver: str, replica: str, place: str) -> None:
        """Keep a taken event for this replica for another minute."""
        ...

    async def done(self, receiver: str, place: str) -> None:
        """Note that an event was delivered to a receiver, or dropped."""
        ...

    async def forget_unused(self, receivers: Sequence[str]) -> Sequence[str]:
        """Note that this replica delivers to these receivers. Forget the others that no replica has noted for
        a week, with the events that wait for them, and return their names. One for which no events wait may
        stay longer.
        """
        ...

    async def waiting(self, receiver: str) -> int:
        """Return the number of events that wait for a receiver."""
        ...


class CounterStore(Protocol):
    """Counters: one integer for each key, with a time to live."""

    @property
    def amendments(self) -> AmendmentStore:
        """Return the store of the amendments that belong to these counters."""
        ...

    @property
    def replicas(self) -> ReplicaStore:
        """Return the register of the replicas that count in this store."""
        ...

    @property
    def events(self) -> EventStore:
        """Return the events that wait in this store."""
        ...

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits in their order, one group for each request, and pass their outcomes to
        `on_outcomes`.

        - `hit` never raises. It calls `on_outcomes` exactly once, on the event loop, with an outcome for each
          group. That may be before or after `hit` returns; callers rely on neither.
        - Hits are applied one after another, and each sees the effect of those before it. A group is atomic:
          nothing happens between its hits, nor between the verdict on the group (core/gates.py) and counting
          it.
        - A group is refused if any of its hits with Gate.REFUSES is over (Hit.is_over), by the counters
          before the group.
        - In a refused group, hits with Gate.HOLDS are not counted, nor those with Gate.YIELDS that have room.
        - A charge saturates at COUNTER_MAX. A check writes nothing. A refund never takes a counter below 0.
        - A new counter, or one without a time to live, gets the time to live of the hit.
        - A hit with `into` writes an entry beside the counter, in the same step and as often as it is
          counted.
        - A counter that is not a number fails its own hit alone.
        - Hits are applied even if their caller disconnects.
        """
        ...

    async def start(self) -> None:
        """Connect to the store. Raises StoreError if that fails; later calls try again."""
        ...

    async def close(self) -> None:
        """Finish the hits in flight, then disconnect."""
        ...

    async def ping(self) -> None:
        """Raise StoreError unless the store is reachable now."""
        ...

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters whose key starts with `bucket` (None: not a number). Raises StoreError."""
        ...

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        """Return some keys that start with `begin` and contain `part` after it, in one short step from
        `position`.

        All steps together return each key that exists during all of them, some more than once, including keys
        that are not counters. Raises InvalidRequest for a position that no step has returned, or StoreError.
        """
        ...

    async def read_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return the existing ones of these counters (None: not a number), in short steps. Raises
        StoreError.
        """
        ...

    async def read_holds(self, keys: Sequence[str], now: int) -> dict[str, int]:
        """Return the tokens that are held at `now` under these keys of holds (docs/keys.md). Raises
        StoreError.
        """
        ...

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Return the entries in these books of ledgers (core/ledger/entries.py), in short steps. Raises
        StoreError.

        Without `names`, `keys` are those that `walk` has returned; the key and the name of an entry are put
        together to read it. With `names`, `keys` are keys of books, and entries with other names may be
        missing.
        """
        ...

    async def delete_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Delete these counters, and return the last values of those that existed. Raises StoreError."""
        ...


class InForce(NamedTuple):
    """What a replica has in force. `digest` is that of its rules, empty before the first are loaded."""

    digest: str = ""
    amendments: int = 0
    """The version of the amendments."""
    release: str = ""
    """The version of the service."""


class Replica(NamedTuple):
    """A replica in the register; `age` is the seconds since it last reported."""

    id: str
    standing: InForce
    generation: int
    """The generation of its rules: 0 before the first are loaded."""
    age: float = 0.0
    behind: float = 0.0
    """The seconds since when a later generation of rules has existed."""


class ReplicaStore(Protocol):
    """The replicas that count in a store, and the generations of their rules.

    A generation is a number that increases by one when a replica has new rules, or returns to rules of an
    earlier generation. All replicas with the same rules get the same number.
    """

    async def meet(self, name: str, standing: InForce) -> Sequence[Replica]:
        """Register what a replica has in force, and return all replicas, including itself. Raises
        StoreError.
        """
        ...

    async def leave(self, name: str) -> None:
        """Remove a replica that stops. Raises StoreError."""
        ...


class AmendmentStore(Protocol):
    """Amendments (core/amendments): changes of limits while the service runs, and an audit of them.

    No decision waits for it. Every method raises StoreError if the store cannot be reached, or refuses.
    """

    async def news(self, version: int, stamp: str) -> News:
        """Return the changes after a version. `stamp` distinguishes versions with the same number.

        Without changes it costs one small read. If the store does not know the version, or no longer has all
        changes after it, the result has all amendments (News.whole).
        """
        ...

    async def apply(self, change: Change, *, dry_run: bool = False) -> ChangeResult:
        """Apply a change in one step: its edits, its idempotency key, and a line for each edit in the audit.

        If a change with its key was applied before, nothing is changed, and the result is that of the first
        time. With `dry_run` nothing is written. Raises InvalidRequest if the key belongs to another change,
        or there are too many amendments; Conflict if an edit would not replace what is expected. A StoreError
        does not say whether the change was applied: apply it again with the same key to be sure.
        """
        ...

    async def secret(self, proposal: str) -> str:
        """Return the secret that all replicas share: `proposal` if there is none yet."""
        ...

    async def finish(self, key: str) -> None:
        """Note that the resets of the change with this key are done, in case it is sent again."""
        ...

    async def audit(self, before: int = 0, most: int = 100) -> Sequence[AuditLine]:
        """Return the edits before a version (0: all), the latest first, and never only a part of a change."""
        ...


class Observer(Protocol):
    """Observes every decision. Its methods must neither raise nor block."""

    def decided(self, plan: Plan, decision: Decision) -> None:
        """Observe a decision."""
        ...

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """Observe an answer that is an error. `plan` is None if the request could not be planned."""
        ...


class RuleChange(NamedTuple):
    """A change of a source of rules: `domains`, whose rules `read` returns, and domains that are `gone`.

    A domain with an error keeps its previous rules. With `whole`, an error in any domain rejects the change.
    `files` are the file descriptors of open files that `read` reads.
    """

    read: Read | None = None
    files: tuple[int, ...] = ()
    domains: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    whole: bool = False


class ChangeOutcome(NamedTuple):
    """The result of a change: the domains whose rules were accepted, and the problems of the others.

    `again` is whether a retry may succeed. `changed` is whether the rules in force have changed.
    """

    accepted: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    again: bool = False
    changed: bool = False


class Rules(Protocol):
    """Accepts the rules of one source."""

    async def change(self, change: RuleChange) -> ChangeOutcome:
        """Put the domains without errors in force. Problems are logged and counted."""
        ...

    def hidden(self) -> Mapping[str, Problem]:
        """Return the domains of this source that are in force from another source, each with a problem."""
        ...

    def blame(self, problems: Sequence[Problem]) -> None:
        """Report all current problems of the source."""
        ...
