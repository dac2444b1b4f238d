"""The last refusals, for people who watch them live.

Many refusals must cost little: at most MOST_A_SECOND are kept of each second, and the others are only
counted. Each takes a few hundred bytes, whatever its request contains.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ..core.model import (
    OVER_LIMIT,
    STATUS_CODE,
    TALLY_OVER,
    TALLY_RULE,
    TALLY_USES,
    USE_AFTER,
    USE_END,
    USE_LIMIT,
    USE_OVER,
    Decision,
    Entry,
)
from ..core.plan import Plan
from ..core.windows.blocks import name as window_name

KEPT = 500
"""Refusals that are kept: less than a megabyte."""

MOST_A_SECOND = 20

_MOST_ENTRIES = 10
_LONGEST = 100
_LONGEST_REASON = 300


class Refusal(NamedTuple):
    """One refused request, by the first descriptor that is over its limit.

    `id` grows with time. `reason` is `over`, `blocked`, or the message of a domain that refuses it. Entries
    are shortened for display; `cut` is whether that removed anything.
    """

    id: int
    at: int
    domain: str
    entries: tuple[Entry, ...]
    cut: bool
    reason: str
    hits: int
    rule: str = ""
    window: str = ""
    name: str = ""
    limit: int | None = None
    used: int | None = None
    ends: int = 0


class Refusals:
    """Notes refusals. Metrics count all of them."""

    def __init__(self) -> None:
        self._last: deque[Refusal] = deque(maxlen=KEPT)
        self._second = 0
        self._noted = 0
        self._process = os.getpid() % 1_000
        self.missed = 0
        """Refusals that were not noted, because there were too many in their second."""

    def note(self, plan: Plan, decision: Decision) -> None:
        """Note a decision that refuses a request."""
        if plan.now != self._second:
            self._second, self._noted = plan.now, 0
        if self._noted >= MOST_A_SECOND:
            self.missed += 1
            return
        self._noted += 1
        self._last.append(self._refusal(plan, decision))

    def since(self, number: int = 0) -> Sequence[Refusal]:
        """Return the refusals with a later id, the latest first."""
        return [each for each in reversed(self._last) if each.id > number]

    def _refusal(self, plan: Plan, decision: Decision) -> Refusal:
        # The process is in the id, so that those of several workers differ.
        number = plan.now * 1_000_000 + self._noted * 1_000 + self._process
        statuses = decision.status_values
        place = next((n for n, each in enumerate(statuses) if each[STATUS_CODE] is OVER_LIMIT), 0)
        planned, tally = plan.descriptors[place], decision.tally_values[place]
        entries = plan.request.descriptors[place].entries
        shown = tuple([Entry(key[:_LONGEST], value[:_LONGEST]) for key, value in entries[:_MOST_ENTRIES]])
        blocked = planned.blocked or any([each.blocks for each in planned.amendments])
        reason = "blocked" if blocked else plan.denial[:_LONGEST_REASON] or "over"
        refusal = Refusal(
            number,
            plan.now,
            plan.request.domain[:_LONGEST],
            shown,
            shown != entries,
            reason,
            plan.addends[place],
        )
        if tally is None:
            return refusal
        use = next((each for each in tally[TALLY_USES] if each[USE_OVER]), None)
        if use is None or not tally[TALLY_OVER]:
            return refusal
        limit = use[USE_LIMIT]
        return refusal._replace(
            rule=str(tally[TALLY_RULE].path)[:_LONGEST_REASON],
            window=window_name(limit.window),
            name=limit.name[:_LONGEST],
            limit=limit.amount,
            used=use[USE_AFTER],
            ends=use[USE_END],
        )
