"""The remaining budget in the answer to a request that passed: `signal` of a rule.

signals_of(policy, plan, tallies) -> Signals     pure

Each value is the worst among all windows of all descriptors whose rules signal to a target: the most urgent
state, the largest share used, the fewest tokens remaining. So a caller that obeys each value by itself obeys
every budget. Nothing of a signal is text of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ..budgets.state import URGENCY, State, state_of
from ..model import TALLY_RULE, TALLY_USES, USE_AFTER, USE_LIMIT, USE_OVER, TallyValues
from ..plan import Plan, Policy

TARGETS: Final[Mapping[str, int]] = {"metadata": 1, "upstream": 2, "caller": 4}
"""The bits of Rule.signal, by the words of the rule language: the dynamic metadata, a request header for the
upstream, a response header for the caller."""

METADATA, UPSTREAM, CALLER = TARGETS.values()

WHOLE: Final = 10_000
"""The share of a budget that is used up."""

HIDDEN: Final = -1
"""Signal.share and Signal.remaining in headers, if a rule has `error_details: minimal`."""

_LARGEST = WHOLE * WHOLE
"""The largest share that is shown: 10,000 times the limit."""


class Signal(NamedTuple):
    """The values for one target."""

    state: State
    share: int
    """The used share in ten-thousandths, rounded down, so that it never reaches a threshold before the use
    does.
    """
    remaining: int


class Signals(NamedTuple):
    """The values for each target; None for none."""

    metadata: Signal | None = None
    upstream: Signal | None = None
    caller: Signal | None = None


def signals_of(policy: Policy, plan: Plan, tallies: Sequence[TallyValues | None]) -> Signals | None:
    """Return the signals of a request that passed; None if no rule has any."""
    metadata: Signal | None = None
    upstream: Signal | None = None
    caller: Signal | None = None
    for tally in tallies:
        if tally is None:
            continue
        targets = tally[TALLY_RULE].signal
        if not targets:
            continue
        found = _signal(policy, tally)
        if targets & METADATA:
            metadata = _worst(metadata, found)
        if targets & (UPSTREAM | CALLER):
            if policy.minimal(tally[TALLY_RULE].error_details):
                found = Signal(found.state, HIDDEN, HIDDEN)
            if targets & UPSTREAM:
                upstream = _worst(upstream, found)
            if targets & CALLER:
                caller = _worst(caller, found)
    if metadata is upstream is caller is None:
        return None
    return Signals(metadata, upstream, caller)


def _signal(policy: Policy, tally: TallyValues) -> Signal:
    """Return the worst of the windows of one descriptor."""
    low_at = tally[TALLY_RULE].low_at or policy.near_limit_ratio
    worst: Signal | None = None
    for use in tally[TALLY_USES]:
        amount, used = use[USE_LIMIT].amount, use[USE_AFTER]
        # A window that an amendment blocks is over whatever is used; a rule in shadow mode lets it pass.
        state = State.OVER if use[USE_OVER] else state_of(used, amount, low_at)
        share = min(used * WHOLE // amount, _LARGEST) if amount else WHOLE
        remaining = 0 if state is State.OVER else amount - used
        worst = _worst(worst, Signal(state, share, remaining))
    assert worst is not None  # a rule with a tally has a window
    return worst


def _worst(one: Signal | None, other: Signal) -> Signal:
    if one is None:
        return other
    state = one.state if URGENCY[one.state] >= URGENCY[other.state] else other.state
    if one.remaining == HIDDEN or other.remaining == HIDDEN:
        return Signal(state, HIDDEN, HIDDEN)
    return Signal(state, max(one.share, other.share), min(one.remaining, other.remaining))
