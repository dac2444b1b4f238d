"""One bucket at a moment: its windows, the limits in force, the use, and how close the use is to the limits.

bucket_now(rule, bucket, stack, now) -> BucketNow     what the rules and the amendments say
budget(...) -> Budget                                 the same with what the counters hold
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..amendments.effect import Effect, effect
from ..amendments.index import Stack
from ..amendments.model import Amendment
from ..model import Entry, Limit, Rule
from ..windows.blocks import Spans, name, span_at
from .forecasting import Basis
from .state import URGENCY, State, state_of


class WindowNow(NamedTuple):
    """One window of a bucket at a moment: the limit of its rule, and the limit in force with its
    amendments.
    """

    limit: Limit
    effect: Effect
    key: str
    end: int
    start: int


class BucketNow(NamedTuple):
    """What limits a descriptor: its rule, its bucket and each window. `amendments` includes those without an
    effect.
    """

    rule: Rule
    bucket: str
    windows: tuple[WindowNow, ...]
    amendments: tuple[Amendment, ...]


def bucket_now(rule: Rule, bucket: str, stack: Stack, now: int, spans: Spans | None = None) -> BucketNow:
    """Return the windows of a bucket at `now`, by its rule and amendments. `spans` caches windows for many
    buckets.
    """
    windows = []
    for limit in rule.limits:
        span = spans.at(limit.window, now) if spans is not None else span_at(limit.window, now)
        windows.append(
            WindowNow(limit, effect(limit, stack, now), f"{bucket}:{span.label}", span.end, span.start)
        )
    return BucketNow(rule, bucket, tuple(windows), (*stack.overrides, *stack.top_ups))


class BudgetWindow(NamedTuple):
    """One window of a budget. Without a `limit`, no rule is known for the counter."""

    name: str
    key: str
    used: int | None
    """None if the counter is not a number."""
    start: int
    """0 where that is not known, as of `end`."""
    end: int
    limit: Limit | None = None
    effective: int | None = None
    """The limit in force, which the amendments `by` have changed."""
    by: tuple[Amendment, ...] = ()
    state: State = State.OK
    burn: float | None = None
    """The current use per second (burning.py); None if it is not known."""
    held: int | None = None
    """The tokens that are set aside for requests in flight; None if the rule has no holds."""
    runs_out: float = 0.0
    """When nothing is left, in seconds since 1970; 0 if that is not before the window ends."""
    forecast_by: Basis | None = None
    """What that is known by (forecasting.py); None where nothing is known yet."""

    @property
    def share(self) -> float:
        """Return the used share of the limit; 1 for a limit of 0."""
        if self.effective is None or self.used is None:
            return 0.0
        return self.used / self.effective if self.effective else 1.0


class Budget(NamedTuple):
    """One bucket of a domain, and the use of its windows. `entries` are those of the bucket
    (matching/buckets.py).
    """

    domain: str
    entries: tuple[Entry, ...]
    bucket: str
    rule: Rule | None
    windows: tuple[BudgetWindow, ...]
    amendments: tuple[Amendment, ...] = ()
    hashed: bool = False

    @property
    def state(self) -> State:
        """Return the state of the worst window."""
        return max([window.state for window in self.windows], key=URGENCY.__getitem__, default=State.OK)

    @property
    def share(self) -> float:
        """Return the used share of the most used window."""
        return max([window.share for window in self.windows], default=0.0)

    @property
    def end(self) -> int:
        """Return when the first of its windows ends, in seconds since 1970."""
        return min([window.end for window in self.windows], default=0)


def budget(
    domain: str,
    entries: tuple[Entry, ...],
    found: BucketNow,
    used: Mapping[str, int | None],
    near_ratio: float,
    *,
    hashed: bool = False,
    held: int | None = None,
) -> Budget:
    """Return a bucket with the values of its counters; a counter that is not in `used` is 0.

    `held` are the tokens that are set aside for requests in flight.
    """
    windows = []
    low_at = found.rule.low_at or near_ratio
    for window in found.windows:
        counted = used.get(window.key, 0)
        amount = window.effect.amount
        windows.append(
            BudgetWindow(
                name(window.limit.window),
                window.key,
                counted,
                window.start,
                window.end,
                window.limit,
                amount,
                window.effect.by,
                _state(counted, amount, low_at, blocked=window.effect.blocked),
                held=held,
            )
        )
    return Budget(domain, entries, found.bucket, found.rule, tuple(windows), found.amendments, hashed)


def _state(used: int | None, amount: int, low_at: float, *, blocked: bool) -> State:
    if blocked:
        return State.BLOCKED
    return State.OK if used is None else state_of(used, amount, low_at)
