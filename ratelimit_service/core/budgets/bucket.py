"""One bucket at a moment: its windows, what holds in them, what is used, and how near that is to the limit.

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
from .state import URGENCY, State, state_of


class WindowNow(NamedTuple):
    """One window of a bucket as it is: what its rule says, what holds, and by which amendments."""

    limit: Limit
    effect: Effect
    key: str
    end: int
    start: int


class BucketNow(NamedTuple):
    """What limits a descriptor: its rule, its bucket and each window. `amendments` also has those that change nothing here."""

    rule: Rule
    bucket: str
    windows: tuple[WindowNow, ...]
    amendments: tuple[Amendment, ...]


def bucket_now(rule: Rule, bucket: str, stack: Stack, now: int, spans: Spans | None = None) -> BucketNow:
    """Return what a rule and amendments make of a bucket at `now`. `spans` caches windows for many buckets."""
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
    """None where the counter is no number."""
    start: int
    """0 where that is not known, as of `end`."""
    end: int
    limit: Limit | None = None
    effective: int | None = None
    """The amount that holds, with the amendments `by`."""
    by: tuple[Amendment, ...] = ()
    state: State = State.OK
    burn: float | None = None
    """What is used in a second at present (burning.py); None where that is not known."""
    held: int | None = None
    """The tokens that are set aside for requests in flight; None where the rule has no holds."""
    runs_out: float = 0.0
    """When nothing is left at that rate, in seconds since 1970; 0 where that is not before the window ends."""

    @property
    def share(self) -> float:
        """Return the part of the limit that is used: 1 where nothing is left of a limit of 0."""
        if self.effective is None or self.used is None:
            return 0.0
        return self.used / self.effective if self.effective else 1.0


class Budget(NamedTuple):
    """One bucket of a domain with what it has used. `entries` are those of the bucket (matching/buckets.py)."""

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
        """Return the share of the window of which most is used."""
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
    """Return a bucket with what its counters hold; a counter that is not in `used` has counted nothing.

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
