"""Groups that Redis refused together because of some of their keys (an ACL): which keys these are, and what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.decision import Count
from ...core.errors import CounterRefused, StoreError
from ...core.model import Hit
from ...ports import Outcome
from ..batch import Applied, Batch, CallFailed, Fate, together

Groups = Sequence[Sequence[Hit]]


def find_forbidden(
    apply: Callable[[Batch, Applied], None],
    groups: Groups,
    register: Batch,
    then: Callable[[set[str] | StoreError], None],
) -> None:
    """Call `then` with the keys of `groups` that Redis refuses, or with the error that all of Redis answers with.

    Each key is read by itself, all in one flight, and beside them `register`, a batch without groups, is written: a user who
    may not even do that may do nothing. Nothing is counted.
    """
    keys = list(dict.fromkeys([hit.key for group in groups for hit in group]))

    def answered(outcomes: list[list[list[Count]] | StoreError]) -> None:
        of_register, *of_keys = outcomes
        forbidden = {key for key, outcome in zip(keys, of_keys, strict=True) if is_forbidden(outcome)}
        if is_forbidden(of_register):
            then(CallFailed(str(of_register), Fate.REFUSED, partly=getattr(of_register, "partly", False)))
            return
        for outcome in outcomes:
            if isinstance(outcome, StoreError) and not is_forbidden(outcome):
                then(outcome)
                return
        then(forbidden)

    first, *others = together(1 + len(keys), answered)
    apply(register, first)
    for key, answer in zip(keys, others, strict=True):
        apply(Batch([[Hit(key, 0, ttl=1)]], "", "", register.where), answer)


def is_forbidden(outcome: object) -> bool:
    """Whether a call was refused because of its keys, or because of what it does."""
    return isinstance(outcome, CallFailed) and outcome.fate is Fate.FORBIDDEN


def without(forbidden: set[str], groups: Groups) -> list[list[Hit]]:
    """The groups without the hits of forbidden keys; each group stays in its place."""
    return [[hit for hit in group if hit.key not in forbidden] for group in groups]


def with_refusals(
    forbidden: set[str], groups: Groups, outcomes: Sequence[Outcome], wrong: StoreError
) -> list[Outcome]:
    """The outcomes of groups whose forbidden hits were left out: those hits fail, as Redis said in `wrong`."""
    why = f"Redis refused a counter: {str(wrong).removeprefix('Redis: ')}"
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
