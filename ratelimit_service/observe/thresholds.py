"""Telling once that so much of a budget is used: `warn_at` of a rule.

The counters are where all replicas meet, so one charge takes a counter over a line. But what is given back can be used
again, and then the line is crossed a second time, in any replica; and where the store answered too late, nobody saw it
crossed at all. So whoever sees it crossed, or for the first time sees what lies beyond it, adds 1 to a marker beside the
counter (keys.warned), and tells where the marker was 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache, partial
from typing import NamedTuple

import structlog

from ..core.errors import StoreError
from ..core.matching import keys
from ..core.model import Hit, Limit, Rule, Tally, Use
from ..ports import CounterStore, Outcome
from .once import OncePerWindow

MOST_UNDER_WAY = 1_000
"""Crossings that the store has not answered for; those beyond them are lost."""

_MOST_SEEN = 100_000
"""Thresholds that are known to be passed; beyond them, only those are told of that are seen being crossed."""

_KEPT_LONGER = 60
"""Seconds that a marker outlives its window, for replicas whose clock is behind."""

Crossed = Callable[[Rule, Limit, str], None]
"""Told the rule, the limit and the share of each crossing, the share as text: `0.8`."""


class Threshold(NamedTuple):
    """One share of one limit. `line` is what the counter holds where it is reached; `percent` is for the marker's key."""

    share: float
    text: str
    percent: str
    line: int


@lru_cache(maxsize=4096)
def thresholds(shares: tuple[float, ...], amount: int) -> tuple[Threshold, ...]:
    """The thresholds of a limit of `amount`; none where that is 0, since all of nothing is always used.

    A share is the decimal number that was written: 7 % of 100 is 7, and not the 7.000000000000001 of 0.07 * 100.
    """
    if amount <= 0:
        return ()
    return tuple(
        [
            Threshold(share, _plain(exact), _plain(exact * 100), math.ceil(Fraction(exact) * amount))
            for share, exact in [(share, Decimal(repr(share))) for share in shares]
        ]
    )


def _plain(number: Decimal) -> str:
    """Without an exponent, and without zeros at the end: 80, 12.5."""
    return f"{number.normalize():f}"


class Thresholds:
    """Sees where a threshold is crossed, claims it in `store`, and logs what is its own."""

    def __init__(self, store: CounterStore, crossed: Crossed = lambda rule, limit, share: None) -> None:
        self._store = store
        self._crossed = crossed
        self._log = structlog.get_logger("ratelimit_service.thresholds")
        self._seen = OncePerWindow(_MOST_SEEN)
        self.under_way = 0
        """Crossings that the store has not answered for."""
        self.lost = 0
        """Crossings, since the start, that nobody was told of: the store failed, or had too many of them in hand."""

    def note(self, tally: Tally, now: int) -> None:
        """One limited descriptor was decided at `now`, seconds since 1970."""
        crossings = [
            _Crossing(tally.rule, use, threshold, now)
            for use in tally.uses
            for threshold in thresholds(tally.rule.warn_at, use.limit.amount)
            if threshold.line <= use.after and self._is_news(use, threshold, now)
        ]
        if not crossings:
            return
        if self.under_way + len(crossings) > MOST_UNDER_WAY:
            self.lost += len(crossings)
            return
        self.under_way += len(crossings)
        self._store.hit([[crossing.marker] for crossing in crossings], partial(self._claimed, crossings))

    def _is_news(self, use: Use, threshold: Threshold, now: int) -> bool:
        first = self._seen.note(use.key, use.end, threshold.percent, now)
        return first or use.before < threshold.line

    def _claimed(self, crossings: Sequence[_Crossing], outcomes: Sequence[Outcome]) -> None:
        self.under_way -= len(crossings)
        for crossing, outcome in zip(crossings, outcomes, strict=True):
            before = outcome if isinstance(outcome, StoreError) else outcome[0]
            if isinstance(before, StoreError):
                self.lost += 1
            elif before == 0:
                self._tell(crossing)

    def _tell(self, crossing: _Crossing) -> None:
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
        return Hit(keys.warned(self.use.key, self.threshold.percent), 1, ttl=ttl)
