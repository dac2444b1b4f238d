"""The effect of amendments on a limit, by precedence:

    the limit in the request
    an override by exact descriptor
    an override by pattern, the most specific first
    limits as data
    the rule

Of overrides with the same target, one for a single window precedes one for all. Top-ups are added to the
limit, except to an override of 0, which blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..model import COUNTER_MAX, Limit, Window
from ..windows.blocks import length, name, span_at
from .index import Stack
from .model import Amendment


class Effect(NamedTuple):
    """The amount of a limit at a moment, the span of time in which it does not change, and its amendments."""

    amount: int
    begin: float = -math.inf
    end: float = math.inf
    by: tuple[Amendment, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether an override blocks the bucket."""
        return bool(self.by) and self.by[0].blocks


def effect(limit: Limit, stack: Stack, now: int, *, brought: bool = False) -> Effect:
    """Return the amended limit at `now`, in seconds since 1970.

    With `brought`, the limit is in the request, so no override applies.
    """
    window = name(limit.window)
    begin, end = -math.inf, math.inf
    amount = limit.amount
    by: list[Amendment] = []
    for override in () if brought else stack.overrides:
        if override.window and override.window != window:
            continue
        if override.until:
            if now >= override.until:
                begin = max(begin, override.until)
                continue
            end = min(end, override.until)
        amount = override.amount
        by.append(override)
        if not amount:
            return Effect(0, begin, end, (override,))
        break
    for top_up in stack.top_ups:
        if top_up.window and top_up.window != window:
            continue
        until = end_of(top_up, limit.window)
        if now >= until:
            begin = max(begin, until)
            continue
        end = min(end, until)
        amount += top_up.amount
        by.append(top_up)
    return Effect(min(amount, COUNTER_MAX), begin, end, tuple(by))


def is_blocked(stack: Stack, now: int) -> Effect:
    """Return whether a bucket without a limit is blocked: whether the first override in force for all windows
    is 0.

    Without a limit, overrides for one window, and those that are not 0, have no effect.
    """
    begin, end = -math.inf, math.inf
    for override in stack.overrides:
        if override.window:
            continue
        if override.until:
            if now >= override.until:
                begin = max(begin, override.until)
                continue
            end = min(end, override.until)
        return Effect(override.amount, begin, end, (override,) if override.blocks else ())
    return Effect(COUNTER_MAX, begin, end)


def end_of(amendment: Amendment, window: Window) -> float:
    """Return the second since 1970 at which an amendment ends in windows of this kind; infinity if it does
    not end.
    """
    if amendment.windows:
        return end_of_windows(window, amendment.since, amendment.windows)
    return amendment.until or math.inf


@lru_cache(maxsize=10_000)
def end_of_windows(window: Window, since: int, count: int) -> int:
    """Return the end of the last of `count` windows, beginning with the one that contains `since`."""
    span = span_at(window, since)
    if window.calendar is None:
        return span.start + count * length(window)
    for _ in range(count - 1):
        span = span_at(window, span.end)
    return span.end


def end_for(amendment: Amendment, windows: Iterable[Window]) -> float:
    """Return the second since 1970 at which an amendment has ended in all of these windows; infinity if that
    is not known.
    """
    if not amendment.windows:
        return amendment.until or math.inf
    ends = [end_of(amendment, window) for window in windows if amendment.window in ("", name(window))]
    return max(ends, default=math.inf)
