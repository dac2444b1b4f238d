"""Deletes counters, with a line in the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.amendments.model import Change, ChangeResult, Reset
from ..ports import CounterStore


async def reset(store: CounterStore, change: Change, markers: Sequence[str] = ()) -> ChangeResult:
    """Delete the counters that the edits of `change` name, and `markers` beside them. Raises StoreError.

    The line is written first, because counters and audit are on different servers, and nothing must be
    deleted without a line. The result has the values of the counters when they were deleted. A change that is
    sent again deletes nothing, unless the first attempt was interrupted: then it deletes the counters of that
    attempt, whose windows may have ended since.
    """
    applied = await store.amendments.apply(change)
    if not applied.unfinished:
        return applied
    resets = [edited.reset for edited in applied.edits if edited.reset is not None]
    noted = [key for each in resets for key, _ in each.counters]
    deleted = await store.delete_counters([*noted, *markers])
    await store.amendments.finish(change.key)
    edits = tuple([edited._replace(reset=_done(edited.reset, deleted)) for edited in applied.edits])
    return applied._replace(edits=edits, unfinished=False)


def _done(reset: Reset | None, deleted: Mapping[str, int | None]) -> Reset | None:
    """Return a reset with what its counters held when they were deleted."""
    if reset is None:
        return None
    return reset._replace(counters=tuple([(key, deleted.get(key, 0)) for key, _ in reset.counters]))
