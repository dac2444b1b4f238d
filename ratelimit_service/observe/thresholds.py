"""Reports once that a share of a budget is used: `warn_at` of a rule.

Replicas share the counters, so a single charge takes a counter across a line. But after a refund the line may
be crossed again, in any replica, and if the store answered too late, no replica saw the crossing. So a
replica that sees the crossing, or for the first time sees a count beyond the line, adds 1 to a marker beside
the counter (keys.warned), and reports the crossing if the marker was 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from typing import NamedTuple

import structlog

from ..core.budgets.state import line_of
from ..core.errors import StoreError
from ..core.matching import keys
from ..core.model import Hit, Limit, Rule, Tally, Use
from ..ports import CounterStore, Outcome
from .once_per_window import OncePerWindow

MOST_IN_FLIGHT = 1_000
"""The most claims in flight; further crossings are lost."""

_MOST_SEEN = 100_000
"""The most remembered thresholds; beyond, only a charge that crosses a line is reported."""

_KEPT_LONGER = 60
"""Seconds that a marker outlives its window, for replicas whose clock is behind."""

Crossed = Callable[[Rule, Limit, str], None]
"""A callback for reported crossings: the rule, the limit, and the share as text (`0.8`)."""

Noticed = Callable[[Rule, Use, float, int], None]
"""A callback for crossings that this replica notices, even if another one reports them: the rule, the use,
the share, and the time.
"""


class Threshold(NamedTuple):
    """A share of a limit.

    `line` is the count at which it is reached; `percent` is part of the marker's key.
    """

    share: float
    text: str
    percent: str
    line: int


@lru_cache(maxsize=4096)
def thresholds(shares: tuple[float, ...], amount: int) -> tuple[Threshold, ...]:
    """Return the thresholds of a limit of `amount`; none if that is 0."""
    if amount <= 0:
        return ()
    return tuple(
        [
            Threshold(share, _plain(exact), _plain(exact * 100), line_of(share, amount))
            for share, exact in [(share, Decimal(repr(share))) for share in shares]
        ]
    )


def _plain(number: Decimal) -> str:
    """Format a number without an exponent and trailing zeros: 80, 12.5."""
    return f"{number.normalize():f}"


class Thresholds:
    """Notices crossed thresholds, claims them in `store`, and logs the claimed ones."""

    def __init__(
        self,
        store: CounterStore,
        crossed: Crossed = lambda rule, limit, share: None,
        noticed: Noticed | None = None,
    ) -> None:
        self._store = store
        self._crossed = crossed
        self._noticed = noticed
        self._log = structlog.get_logger("ratelimit_service.thresholds")
        self._seen = OncePerWindow(_MOST_SEEN)
        self.in_flight = 0
        """Claims in flight."""
        self.lost = 0
        """Crossings since the start that were not reported: the store failed, or too many claims were in
        flight."""

    def note(self, tally: Tally, now: int) -> None:
        """Check the uses of a descriptor that was decided at `now`, in Unix seconds."""
        crossings = [
            _Crossing(tally.rule, use, threshold, now)
            for use in tally.uses
            for threshold in thresholds(tally.rule.warn_at, use.limit.amount)
            if threshold.line <= use.after and self._is_new(use, threshold, now)
        ]
        if not crossings:
            return
        if self._noticed is not None:
            for rule, use, threshold, _ in crossings:
                self._noticed(rule, use, threshold.share, now)
        if self.in_flight + len(crossings) > MOST_IN_FLIGHT:
            self.lost += len(crossings)
            return
        self.in_flight += len(crossings)
        self._store.hit([[crossing.marker] for crossing in crossings], partial(self._claimed, crossings))

    def _is_new(self, use: Use, threshold: Threshold, now: int) -> bool:
        first = self._seen.note(use.key, use.end, threshold.percent, now)
        return first or use.before < threshold.line

    def _claimed(self, crossings: Sequence[_Crossing], outcomes: Sequence[Outcome]) -> None:
        self.in_flight -= len(crossings)
        for crossing, outcome in zip(crossings, outcomes, strict=True):
            before = outcome if isinstance(outcome, StoreError) else outcome[0]
            if isinstance(before, StoreError):
                self.lost += 1
            elif before == 0:
                self._report(crossing)

    def _report(self, crossing: _Crossing) -> None:
        rule, use, threshold, now = crossing
        self._crossed(rule, use.limit, threshold.text)
        self._log.warning(
            "budget threshold crossed",
            bucket=use.key,
            rule=use.limit.name or str(rule.path),
            share=threshold.share,
            used=use.after,
            limit=use.limit.amount,
            resets_in=use.end - now,
        )


class _Crossing(NamedTuple):
    rule: Rule
    use: Use
    threshold: Threshold
    now: int

    @property
    def marker(self) -> Hit:
        ttl = max(1, self.use.end - self.now) + _KEPT_LONGER
        return Hit(keys.threshold_marker(self.use.key, self.threshold.percent), 1, ttl=ttl)
