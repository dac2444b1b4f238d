"""The deadline of an answer: callers are answered in time, and the hits stay with the store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ...core.errors import StoreError
from ...core.model import HitValues
from ...ports import CounterStore, Outcome, Then
from .layer import Layer


class _Awaited:
    """A call whose answer is due at `due`; `then` is None once it has been answered."""

    __slots__ = ("due", "groups", "then")

    def __init__(self, groups: Sequence[Sequence[HitValues]], then: Then, due: float) -> None:
        self.groups = groups
        self.then: Then | None = then
        self.due = due

    def answer(self, outcomes: Sequence[Outcome]) -> None:
        then, self.then = self.then, None
        if then is not None:
            then(outcomes)


class DeadlineStore(Layer):
    """Answers within `seconds`, whatever the store below does.

    The deadline bounds the answer alone: the hits stay with the store below, and are counted there. All calls have the
    same time, so they fall due in the order in which they came, and one timer is enough for all.
    """

    for_callers = True

    def __init__(self, below: CounterStore, seconds: float) -> None:
        super().__init__(below)
        self.missed = 0
        """How many requests had to be answered without the store."""
        self._seconds = seconds
        self._awaited: deque[_Awaited] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        loop = asyncio.get_running_loop()
        call = _Awaited(groups, then, loop.time() + self._seconds)
        self._below.hit(groups, call.answer)
        awaited = self._awaited
        # Who is answered would else stay until the timer.
        while awaited and awaited[0].then is None:
            awaited.popleft()
        if call.then is None:
            return
        awaited.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.due, self._look)

    def _look(self) -> None:
        """Answer what is due, and come back for what is not."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._awaited and (self._awaited[0].then is None or self._awaited[0].due <= loop.time()):
            call = self._awaited.popleft()
            if call.then is not None:
                late = StoreError(f"the store did not answer within {self._seconds * 1000:g} ms")
                self.missed += sum(map(bool, call.groups))
                call.answer([late if group else () for group in call.groups])
        if self._awaited:
            self._timer = loop.call_at(self._awaited[0].due, self._look)

    async def close(self) -> None:
        """Close the store below; what it still answers is passed on."""
        await super().close()
        if self._timer is not None:
            self._timer.cancel()
