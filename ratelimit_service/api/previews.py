"""Previews: the buckets that a change affects, before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..amending.operations import Operations
from ..core.amendments.model import MOST_EDITS, Put, Remove
from ..core.amendments.target import Target, exact_entries, exactly
from ..core.budgets.bucket import Budget, budget
from ..core.errors import InvalidRequest
from ..core.matching.keys import LONGEST
from ..core.model import Entry
from ..inspection.query import Query
from ..inspection.views import Views
from . import response_types, serializers

_RESET_WAITS = 10.0
"""Seconds that a reset by pattern waits for the list of its buckets, which a large store takes seconds to
give.
"""

MOST_SHOWN = 20
"""Buckets that a preview shows."""


Edit = Put | Remove


class AffectedBuckets(NamedTuple):
    """The first buckets that a target matches, and their number. `partial` says why there may be more."""

    budgets: Sequence[Budget]
    total: int
    partial: str = ""


class SetToZero(NamedTuple):
    """A reset of a window; empty: of all."""

    window: str


def entries_of(target: Target) -> tuple[Entry, ...]:
    """Return the entries of an exact target. Raises InvalidRequest for another one."""
    if not target.exact:
        raise InvalidRequest(f"give one descriptor: {target.text} is a pattern for several")
    return exact_entries(target)


class Previews:
    """Makes previews. `near_ratio` is NEAR_LIMIT_RATIO."""

    def __init__(self, operations: Operations, views: Views, near_ratio: float) -> None:
        self._operations = operations
        self._views = views
        self._near_ratio = near_ratio

    async def affected(
        self, target: Target, wait: float | None = None, oldest: float | None = None
    ) -> AffectedBuckets:
        """Return the buckets that a target matches: for a pattern, as many as one reset can have.

        Waits `wait` seconds for a pattern, by default as long as a list does. They are from a list that was
        begun at most `oldest` seconds ago (Lister.budgets). Raises StoreError.
        """
        if target.exact:
            found = await self._views.bucket(target.domain, entries_of(target))
            return AffectedBuckets([found] if found is not None else [], int(found is not None))
        query = Query(target.domain, sort="name", limit=MOST_EDITS, target=target)
        listing = await self._views.budgets(query, wait=wait, oldest=oldest)
        budgets = [one for one in listing.budgets if one.rule is not None]
        count = len(budgets) if listing.total is None else listing.total
        return AffectedBuckets(budgets, count, listing.partial_reason)

    async def to_reset(self, target: Target, oldest: float) -> tuple[list[Target], list[str]]:
        """Return each bucket that a target matches, and a note about those that cannot be reset so.

        They are from a list that was begun at most `oldest` seconds ago. Raises InvalidRequest if there are
        none, or too many.
        """
        if target.exact:
            return [target], []
        found = await self.affected(target, _RESET_WAITS, oldest)
        targets = [exactly(one.domain, one.entries) for one in found.budgets if not one.hashed]
        if found.partial or found.total > MOST_EDITS:
            why = found.partial or f"{target.text} matches {found.total}"
            raise InvalidRequest(
                f"a reset has at most {MOST_EDITS} buckets, and {why}: give a narrower pattern"
            )
        hashed = len(found.budgets) - len(targets)
        notes = [_not_reset(target, hashed)] if hashed else []
        if not targets:
            why = notes[0] if notes else f"no bucket matches {target.text}"
            raise InvalidRequest(f"there is nothing to reset: {why}")
        return targets, notes

    def before_and_after(
        self, found: AffectedBuckets, change: Sequence[Edit] | SetToZero
    ) -> list[response_types.BeforeAndAfter]:
        """Return the first of these buckets before and after a change."""
        known = [one for one in found.budgets if one.rule is not None and not one.hashed][:MOST_SHOWN]
        return [
            {"before": serializers.budget(one), "after": serializers.budget(self._after(one, change))}
            for one in known
        ]

    def _after(self, before: Budget, change: Sequence[Edit] | SetToZero) -> Budget:
        edits = () if isinstance(change, SetToZero) else change
        now = self._operations.bucket(before.domain, before.entries, edits)
        if now is None:
            return before
        used = {window.key: window.used for window in before.windows}
        if isinstance(change, SetToZero):
            used |= {window.key: 0 for window in before.windows if change.window in ("", window.name)}
        return budget(before.domain, before.entries, now, used, self._near_ratio)


def _not_reset(target: Target, hashed: int) -> str:
    """Return a note about buckets with long values, of which their counters only have the digest."""
    return (
        f"{hashed} more with a value of over {LONGEST} bytes may match {target.text}, and "
        f"{'is' if hashed == 1 else 'are'} not reset: give each by its descriptor"
    )
