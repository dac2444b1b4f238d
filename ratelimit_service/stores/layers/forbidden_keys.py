"""Finds the keys of a batch that an ACL of Redis forbids, and leaves them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.errors import CounterRefused, StoreError
from ...core.gates import Gate
from ...core.model import Hit
from ...ports import Outcome
from ..batch import Batch, CallFailed, Counts, Fate, Groups, OnApplied, callbacks_for


def find_forbidden(
    apply: Callable[[Batch, OnApplied], None],
    groups: Groups,
    register: Batch,
    on_found: Callable[[set[str] | StoreError], None],
) -> None:
    """Pass the forbidden keys of `groups` to `on_found`, or an error if calls fail for another reason.

    Each key is read by a call of its own, and all calls are in flight together. `register`, a batch without
    groups, is written as well: a user who is not even allowed to do that cannot count at all. Nothing is
    counted.
    """
    keys = list(dict.fromkeys([key for group in groups for hit in group for key in _keys(hit)]))

    def on_all_applied(outcomes: list[Counts | StoreError]) -> None:
        of_register, *of_keys = outcomes
        if is_forbidden(of_register):
            partly = getattr(of_register, "partly", False)
            on_found(CallFailed(str(of_register), Fate.REFUSED, partly=partly))
            return
        for outcome in outcomes:
            if isinstance(outcome, StoreError) and not is_forbidden(outcome):
                on_found(outcome)
                return
        on_found({key for key, outcome in zip(keys, of_keys, strict=True) if is_forbidden(outcome)})

    on_register_applied, *on_keys_applied = callbacks_for(1 + len(keys), on_all_applied)
    apply(register, on_register_applied)
    for key, on_key_applied in zip(keys, on_keys_applied, strict=True):
        apply(Batch([[Hit(key, 0, ttl=1)]], register.place), on_key_applied)


def is_forbidden(outcome: object) -> bool:
    """Return whether a call was refused because of its keys or its commands."""
    return isinstance(outcome, CallFailed) and outcome.fate is Fate.FORBIDDEN


def without(forbidden: set[str], groups: Groups) -> list[list[Hit]]:
    """Return the groups without the hits of forbidden keys; each group stays in its place."""
    return [[_allowed(hit, forbidden) for hit in group if hit.key not in forbidden] for group in groups]


def entries_without(forbidden: set[str], groups: Groups) -> int:
    """Return the number of ledger entries that are left out because of forbidden keys, although their charges
    are counted.
    """
    return sum(
        [
            hit.into is not None
            and hit.into.book in forbidden
            and (hit.key not in forbidden or bool(hit.gate & Gate.ENTRY))
            for group in groups
            for hit in group
        ]
    )


def _keys(hit: Hit) -> tuple[str, ...]:
    return (hit.key,) if hit.into is None else (hit.key, hit.into.book)


def _allowed(hit: Hit, forbidden: set[str]) -> Hit:
    """Return a hit without its entry if the entry is forbidden, because the charge takes precedence."""
    if hit.into is not None and hit.into.book in forbidden:
        return Hit(hit.key, hit.amount, ttl=hit.ttl, limit=hit.limit, gate=hit.gate & ~Gate.LEDGER)
    return hit


def with_refusals(
    forbidden: set[str], groups: Groups, outcomes: Sequence[Outcome], error: StoreError
) -> list[Outcome]:
    """Return the outcomes of `groups`; `outcomes` has those of the allowed hits.

    The forbidden ones fail with `error`.
    """
    why = f"Redis refused a counter: {str(error).removeprefix('Redis: ')}"
    whole: list[Outcome] = []
    for group, outcome in zip(groups, outcomes, strict=True):
        counts = iter(() if isinstance(outcome, StoreError) else outcome)
        whole.append(
            [
                CounterRefused(why, hit.key)
                if hit.key in forbidden
                else outcome
                if isinstance(outcome, StoreError)
                else next(counts)
                for hit in group
            ]
        )
    return whole
