"""Refuses requests for buckets that were just seen to be exhausted (LOCAL_CACHE_SIZE_IN_BYTES).

A caller that is over its limit often retries immediately. For a second after the store has reported a bucket
exhausted, this layer answers such requests from memory. Charges among them are still passed down and counted;
only the answer does not wait. No entry needs to be invalidated: a deleted, changed or refunded counter is
noticed within the second, and a raised limit at once, because the cache keeps counts and not verdicts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...core.decision import Count
from ...core.errors import StoreError
from ...core.gates import Gate
from ...core.holds.hit import HoldHit, Op
from ...core.model import Hit
from ...ports import CounterStore, OnOutcomes, Outcome
from ..batch import Groups
from .layer import Layer

FRESH = 1.0
"""Seconds for which a count is used."""

_BYTES_OF_A_COUNT = 340
"""Bytes of memory of a cached count beside those of its key."""


class _Known(NamedTuple):
    """A count, and when it becomes too old to be used."""

    value: int
    until: float


class LocalCache(Layer):
    """A CounterStore that answers from memory where a bucket is known to be exhausted.

    `size` is in bytes, `clock` is monotonic. At the bound the oldest counts are evicted and then read from
    the store again, so that no bucket is freed.
    """

    for_callers = True

    def __init__(self, below: CounterStore, size: int, clock: Callable[[], float]) -> None:
        super().__init__(below)
        self._most = size
        self._bytes = 0
        self._clock = clock
        # Not a dict, which finds its oldest key by walking over all the keys that were removed before it.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self.answered = 0
        """The number of requests that were answered from memory."""

    def hit(self, groups: Groups, on_outcomes: OnOutcomes) -> None:
        """Apply groups of hits (ports.CounterStore.hit); counts may be up to a second old."""
        if groups and _only_entries(groups[0]):  # the service sends them in a batch of one group
            self._below.hit(groups, on_outcomes)
            return
        now = self._clock()
        answers = [self._answer(group, now) for group in groups]
        if not any([answer is not None for answer in answers]):
            self._below.hit(groups, lambda outcomes: on_outcomes(self._remember(groups, outcomes)))
            return
        unknown = [group if answer is None else () for group, answer in zip(groups, answers, strict=True)]
        charges = [
            group
            for group, answer in zip(groups, answers, strict=True)
            if answer is not None and any([hit.amount for hit in group])
        ]
        if charges:
            self._below.hit(charges, lambda outcomes: None)

        def on_unknown(outcomes: Sequence[Outcome]) -> None:
            self._remember(unknown, outcomes)
            on_outcomes(
                [
                    answer if answer is not None else outcome
                    for answer, outcome in zip(answers, outcomes, strict=True)
                ]
            )

        self._below.hit(unknown, on_unknown)

    def _answer(self, group: Sequence[Hit], now: float) -> list[Count] | None:
        """Return the counts of a group if all are known, and one bucket is exhausted; else None."""
        counts: list[Count] = []
        over = False
        for hit in group:
            if isinstance(hit, HoldHit):
                if hit.op is not Op.TAKE:
                    return None
                counts.append(0)
                continue
            known = self._known.get(hit.key)
            if known is None or known.until < now or hit.amount < 0:
                return None
            counts.append(known.value)
            over = over or hit.is_over(known.value)
        if not over:
            return None
        self.answered += 1
        return counts

    def _remember(self, groups: Groups, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        until = self._clock() + FRESH
        for group, outcome in zip(groups, outcomes, strict=True):
            if isinstance(outcome, StoreError) or any([isinstance(count, StoreError) for count in outcome]):
                continue
            counts = [
                count if count >= 0 else ~count for count in outcome if not isinstance(count, StoreError)
            ]
            if any([hit.is_over(count) for hit, count in zip(group, counts, strict=True)]):
                for hit, count in zip(group, counts, strict=True):
                    if isinstance(hit, HoldHit):
                        continue
                    self._forget(hit.key)  # the new entry is then the newest
                    self._known[hit.key] = _Known(count, until)
                    self._bytes += len(hit.key) + _BYTES_OF_A_COUNT
            else:
                for hit in group:
                    self._forget(hit.key)
        while self._bytes > self._most:
            key, _ = self._known.popitem(last=False)
            self._bytes -= len(key) + _BYTES_OF_A_COUNT
        return outcomes

    def _forget(self, key: str) -> None:
        if self._known.pop(key, None) is not None:
            self._bytes -= len(key) + _BYTES_OF_A_COUNT


def _only_entries(group: Sequence[Hit]) -> bool:
    """Return whether a group only writes entries of ledgers, so that it has no count to cache."""
    return bool(group) and bool(group[0].gate & Gate.ENTRY) and all([hit.gate & Gate.ENTRY for hit in group])
