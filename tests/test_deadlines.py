"""Calls are answered in time, whatever the store does. The clock of the tests jumps to the next timer."""

from __future__ import annotations

import asyncio
import gc
import selectors
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ratelimit_service.core.errors import RateLimitServiceError, StoreError
from ratelimit_service.core.model import Code, Decision, Hit, Request
from ratelimit_service.core.plan import FailureMode, Policy
from ratelimit_service.deadlines import Patience
from ratelimit_service.ports import OnOutcomes
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore

from .test_service import NOW, TREE, Observed, request

NOTHING_TO_COUNT = request(domain="other")
"""A request for which there is no rule."""


class Jumping(selectors.SelectSelector):
    """A selector that does not wait: it adds the time to `now`."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is left to wait for"
        self.now += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when it is idle."""

    def __init__(self) -> None:
        self.selector = Jumping()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    @property
    def timers(self) -> int:
        """Return the number of timers that are not cancelled."""
        return len([timer for timer in self._scheduled if not timer.cancelled()])  # type: ignore[attr-defined]


def played(story: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on such a loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story)


class Late(MemoryStore):
    """A store that counts at once, and returns the oldest outcomes when `answer` is called."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.handed_over = 0
        self._pending: list[Any] = []

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        self.handed_over += 1
        super().hit(groups, lambda outcomes: self._pending.append(lambda: on_outcomes(outcomes)))

    def answer(self) -> None:
        self._pending.pop(0)()

    @property
    def counted(self) -> int:
        return sum(self._counters.values())


@dataclass(eq=False)
class Call:
    """A call that keeps its answer, with its time in milliseconds."""

    timeout: int = -1
    request: Request = field(default_factory=request)
    answers: list[tuple[int, Decision | RateLimitServiceError]] = field(default_factory=list)
    gone: bool = False

    def reply(self, answer: Decision | RateLimitServiceError) -> None:
        self.answers.append((round(asyncio.get_running_loop().time() * 1000), answer))

    @property
    def answered(self) -> list[tuple[int, str]]:
        return [
            (when, answer.code.name if isinstance(answer, Decision) else str(answer))
            for when, answer in self.answers
        ]


def service(
    store: MemoryStore, patience: Patience | None = None, observer: Observed | None = None, **policy: Any
) -> RateLimitService:
    made = RateLimitService(
        store, observer or Observed(), lambda: NOW, Policy(**policy), patience=patience or Patience()
    )
    made.use(TREE)
    return made


def late(milliseconds: int) -> tuple[int, str]:
    return milliseconds, f"the store did not answer within {milliseconds} ms"


@pytest.mark.parametrize(
    ("timeout", "milliseconds"),
    [
        (20, 10),  # Envoy, by default
        (250, 240),
        (5_000, 4_990),
        (360_000_000, 359_999_990),
        # The margin takes no more than half.
        (19, 9.5),
        (5, 2.5),
        (0, 0),
        # A caller that does not say how long it waits.
        (-1, 500),
    ],
)
def test_a_caller_has_its_answer_a_margin_before_it_gives_up(timeout: int, milliseconds: float) -> None:
    assert pytest.approx(milliseconds / 1000) == Patience(margin=0.01, otherwise=0.5).of(timeout)


def test_each_call_of_a_batch_has_a_deadline_of_its_own() -> None:
    """Each call of a batch is answered once, and all are counted."""

    async def story() -> None:
        store, observer = Late(), Observed()
        decides = service(store, observer=observer)
        calls = [Call(timeout) for timeout in (250, -1, 20, 1_000, 20)]
        decides.submit(calls)
        await asyncio.sleep(2)
        assert [[late(when)] for when in (240, 500, 10, 990, 10)] == [call.answered for call in calls]
        store.answer()
        assert [1] * 5 == [len(call.answers) for call in calls]
        assert (1, 5, 5) == (store.handed_over, store.counted, decides.missed)
        assert (0, [(True, StoreError)] * 5) == (
            observer.decisions,
            [(planned, type(error)) for planned, error in observer.failures],
        )

    played(story())


def test_calls_that_the_store_answers_in_time_are_decided() -> None:
    """The other calls of the batch were answered before."""

    async def story() -> None:
        store = Late()
        decides = service(store)
        hurried, patient = Call(20), Call(250)
        decides.submit([hurried, patient])
        await asyncio.sleep(0.1)
        store.answer()
        await asyncio.sleep(1)
        assert ([late(10)], [(100, "OK")], 1) == (hurried.answered, patient.answered, decides.missed)

    played(story())


def test_a_call_with_a_short_deadline_does_not_wait_for_longer_ones() -> None:
    """The calls may arrive in any order."""

    async def story() -> None:
        decides = service(Late())
        calls = [Call(timeout) for timeout in (-1, 1_000, 100, 20, 250)]
        for call in calls:
            decides.submit([call])
        await asyncio.sleep(2)
        assert [[late(when)] for when in (500, 990, 90, 10, 240)] == [call.answered for call in calls]

    played(story())


def test_a_call_without_hits_is_decided_at_its_deadline() -> None:
    """Its decision needs no counts. It only waited with other calls of its batch."""

    async def story() -> None:
        decides = service(Late())
        free, counted = Call(20, NOTHING_TO_COUNT), Call(20)
        decides.submit([free, counted])
        await asyncio.sleep(1)
        assert ([(10, "OK")], [late(10)], 1) == (free.answered, counted.answered, decides.missed)

    played(story())


@pytest.mark.parametrize(
    ("mode", "code"), [(FailureMode.ALLOW, Code.OK), (FailureMode.DENY, Code.OVER_LIMIT)]
)
def test_the_answer_at_the_deadline_is_that_of_the_failure_mode(mode: FailureMode, code: Code) -> None:
    async def story() -> None:
        decides = service(Late(), failure_mode=mode)
        call = Call(20)
        decides.submit([call])
        await asyncio.sleep(1)
        assert [(10, code.name)] == call.answered

    played(story())


def test_there_is_one_timer_however_many_calls_wait() -> None:
    """After the last answer, there is none."""

    async def story() -> None:
        store = Late()
        decides = service(store)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        before = loop.timers
        calls = [Call(timeout) for timeout in (-1, 20, 250) for _ in range(1_000)]
        for call in calls:
            decides.submit([call])
        assert 1 == loop.timers - before
        for _ in calls:
            store.answer()
        await asyncio.sleep(1)
        assert [[0]] * 3_000 == [[when for when, _ in call.answers] for call in calls]
        assert before == loop.timers

    played(story())


def test_answered_calls_are_released_before_their_deadline() -> None:
    """At 60,000 calls a second, they would be hundreds of thousands of objects."""

    async def story() -> None:
        store = Late()
        decides = service(store)
        kept = []
        for _ in range(100):
            call = Call()
            kept.append(weakref.ref(call))
            decides.submit([call])
            del call
            store.answer()
        assert 0 == sum(1 for call in kept if call() is not None)

    gc.disable()  # what is released is released without it
    try:
        played(story())
    finally:
        gc.enable()


def test_answered_calls_with_deadlines_of_years_are_dropped() -> None:
    """Callers choose their deadlines, so all answered calls are dropped, not only those that are due next."""

    async def story() -> None:
        store = Late()
        decides = service(store)
        deadlines = decides._deadlines
        assert deadlines is not None
        most = 0
        decides.submit([Call(10_000)])  # still waits, and is due before the others
        for _ in range(2_000):
            call = Call(2**31)
            decides.submit([call])
            store._pending.pop()()
            most = max(most, len(deadlines._batches))
        assert most <= 600
        store.answer()

    played(story())


def test_without_patience_a_call_waits_for_as_long_as_it_takes() -> None:
    """Without a bound, a late count is better than none."""

    async def story() -> None:
        store = Late()
        decides = RateLimitService(store, Observed(), lambda: NOW)
        decides.use(TREE)
        call = Call(20)
        decides.submit([call])
        await asyncio.sleep(10)
        store.answer()
        assert [(10_000, "OK")] == call.answered

    played(story())
