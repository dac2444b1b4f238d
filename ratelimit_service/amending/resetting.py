"""Deleting counters with a line in the audit."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.amendments.model import Applied, Change, Reset
from ..ports import CounterStore


async def reset(store: CounterStore, change: Change, markers: Sequence[str] = ()) -> Applied:
    """Delete the counters that the one edit of `change` names, and `markers` beside them. Raises StoreError.

    The line comes first: counters and audit are on several servers, and nothing is to be deleted without one.
    The answer has what the counters held when they were deleted. A change that is sent again deletes nothing,
    unless it was interrupted: then it deletes the counters of the first time, of which the windows may have
    ended since.
    """
    applied = await store.amendments.apply(change)
    if not applied.unfinished:
        return applied
    (edited,) = applied.edits
    assert edited.reset is not None
    noted = [key for key, _ in edited.reset.counters]
    deleted = await store.delete_counters([*noted, *markers])
    await store.amendments.finish(change.key)
    done: Reset = edited.reset._replace(counters=tuple([(key, deleted.get(key, 0)) for key in noted]))
    return applied._replace(edits=(edited._replace(reset=done),), unfinished=False)
