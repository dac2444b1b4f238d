"""Refusing at once what was just seen to be used up (LOCAL_CACHE_SIZE_IN_BYTES).

A caller who is over the limit often asks again and again. For a second after the store has said so, such requests are
answered from here. Charges among them are handed down and counted all the same; only their answer does not wait. So nothing
has to be made invalid: a counter that is deleted, set or given back by hand is seen within the second, and a limit that is
raised at once, because what is remembered is the count and not the verdict.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...core.decision import Count
from ...core.errors import StoreError
from ...core.model import Hit
from ...ports import CounterStore, Outcome, Then
from .layer import Layer

FRESH = 1.0
"""Seconds for which a count is believed."""

_BYTES_OF_A_COUNT = 340
"""Bytes of memory of a remembered count beside those of its key."""


class _Known(NamedTuple):
    held: int
    until: float


class LocalCache(Layer):
    """A CounterStore that answers from memory where a bucket is known to be used up.

    `size` is in bytes. `clock` tells seconds that go forward only. At the bound the oldest counts are forgotten, which costs
    a question to the store and frees nobody.
    """

    for_callers = True

    def __init__(self, below: CounterStore, size: int, clock: Callable[[], float]) -> None:
        super().__init__(below)
        self._most = size
        self._bytes = 0
        self._clock = clock
        # A dictionary would look for its oldest key among all that were removed before it.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self.answered = 0
        """How many requests were answered without waiting for the store."""

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit), but for the age of the counts that are told."""
        now = self._clock()
        answers = [self._answer(group, now) for group in groups]
        if not any([answer is not None for answer in answers]):
            self._below.hit(groups, lambda outcomes: then(self._remember(groups, outcomes)))
            return
        asked = [group if answer is None else () for group, answer in zip(groups, answers, strict=True)]
        writing = [
            group
            for group, answer in zip(groups, answers, strict=True)
            if answer is not None and any([hit.amount for hit in group])
        ]
        if writing:
            self._below.hit(writing, lambda outcomes: None)

        def join(outcomes: Sequence[Outcome]) -> None:
            self._remember(asked, outcomes)
            then(
                [
                    answer if answer is not None else told
                    for answer, told in zip(answers, outcomes, strict=True)
                ]
            )

        self._below.hit(asked, join)

    def _answer(self, group: Sequence[Hit], now: float) -> list[Count] | None:
        """The counts of a group all of whose counters are known, one of them to be used up; else None."""
        counts: list[Count] = []
        over = False
        for hit in group:
            known = self._known.get(hit.key)
            if known is None or known.until < now or hit.amount < 0:
                return None
            counts.append(known.held)
            over = over or hit.is_over(known.held)
        if not over:
            return None
        self.answered += 1
        return counts

    def _remember(self, groups: Sequence[Sequence[Hit]], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        until = self._clock() + FRESH
        for group, outcome in zip(groups, outcomes, strict=True):
            if isinstance(outcome, StoreError) or any([isinstance(count, StoreError) for count in outcome]):
                continue
            counts = [
                count if count >= 0 else ~count for count in outcome if not isinstance(count, StoreError)
            ]
            if any([hit.is_over(count) for hit, count in zip(group, counts, strict=True)]):
                for hit, count in zip(group, counts, strict=True):
                    self._forget(hit.key)  # so that it becomes the newest
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
