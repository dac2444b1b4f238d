"""One batch of calls, from the requests to the answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ratelimit_service.core.errors import (
    InternalError,
    InvalidRequest,
    NotReady,
    RateLimitServiceError,
    StoreError,
)
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Code,
    Decision,
    Descriptor,
    DescriptorRule,
    DomainRules,
    Entry,
    Hit,
    Limit,
    Request,
    Rule,
    StatKey,
    Unit,
    Window,
)
from ratelimit_service.core.plan import FailureMode, Plan, Policy
from ratelimit_service.ports import OnOutcomes, Outcome
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore

NOW = 1_795_249_200.0
RULE = Rule(StatKey("d", ("team",)), (Limit(10, Window(Unit.HOUR)),))
TREE = RuleTree([DomainRules("d", (DescriptorRule(b"team", rule=RULE),))])


def request(team: str = "a", hits: int = 1, domain: str = "d") -> Request:
    return Request(domain, (Descriptor((Entry(b"team", team.encode()),), hits),))


@dataclass
class Call:
    """A call that keeps its answer, and may fail to reply."""

    request: Request
    answers: list[Decision | RateLimitServiceError] = field(default_factory=list)
    breaks: bool = False
    timeout: int = -1
    gone: bool = False

    def reply(self, answer: Decision | RateLimitServiceError) -> None:
        self.answers.append(answer)
        if self.breaks:
            raise RuntimeError("the connection is gone")


@dataclass
class Observed:
    """An observer that keeps what it observes."""

    decisions: int = 0
    failures: list[tuple[bool, RateLimitServiceError]] = field(default_factory=list)
    breaks_on: Callable[[Plan], bool] = lambda plan: False

    def decided(self, plan: Plan, decision: Decision) -> None:
        if self.breaks_on(plan):
            raise RuntimeError("the observer broke")
        self.decisions += 1

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        self.failures.append((plan is not None, error))


class FaultyStore(MemoryStore):
    """A store that returns what `fault` makes of the outcome, for the keys that `wrong` selects."""

    def __init__(self, wrong: Callable[[Sequence[Hit]], bool], fault: Callable[[], Any]) -> None:
        super().__init__(lambda: NOW)
        self._wrong, self._fault = wrong, fault

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        def spoil(outcomes: Sequence[Outcome]) -> None:
            on_outcomes(
                [self._fault() if self._wrong(g) else o for g, o in zip(groups, outcomes, strict=True)]
            )

        super().hit(groups, spoil)


@pytest.fixture
async def reported() -> list[dict[str, Any]]:
    """Yield the reports to the exception handler of the event loop."""
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
    return contexts


def service(store: Any = None, observer: Observed | None = None) -> RateLimitService:
    store = MemoryStore(lambda: NOW) if store is None else store
    made = RateLimitService(store, observer or Observed(), lambda: NOW)
    made.use(TREE)
    return made


def is_37(hits: Sequence[Hit]) -> bool:
    return any("team=37}" in hit.key for hit in hits)


def hundred() -> list[Call]:
    return [Call(request(str(number))) for number in range(100)]


def check_that_only_37_failed(calls: Sequence[Call], kind: type[RateLimitServiceError]) -> None:
    assert [1] * 100 == [len(call.answers) for call in calls]
    assert [number == 37 for number in range(100)] == [isinstance(call.answers[0], kind) for call in calls]
    assert 99 == sum(isinstance(call.answers[0], Decision) for call in calls)


async def test_the_37th_request_of_a_batch_cannot_be_planned() -> None:
    """A request without a domain is refused alone."""
    calls = hundred()
    calls[37].request = request(domain="")
    service().submit(calls)
    check_that_only_37_failed(calls, InvalidRequest)


async def test_the_37th_request_of_a_batch_breaks_the_planning(reported: list[dict[str, Any]]) -> None:
    """An unexpected exception is an internal error of that call, and is reported."""
    calls = hundred()
    calls[37].request = None  # type: ignore[assignment]
    service().submit(calls)
    check_that_only_37_failed(calls, InternalError)
    assert ["internal error"] == [str(calls[37].answers[0])]
    assert [AttributeError] == [type(context["exception"]) for context in reported]


async def test_the_37th_hit_of_a_batch_cannot_be_counted() -> None:
    """A counter that fails fails only its own request."""
    calls = hundred()
    observer = Observed()
    store = FaultyStore(is_37, lambda: [StoreError("not a counter")])
    service(store, observer).submit(calls)
    check_that_only_37_failed(calls, StoreError)
    assert [(True, calls[37].answers[0])] == observer.failures


async def test_the_37th_group_of_a_batch_fails() -> None:
    """The slot of a Cluster is an example."""
    calls = hundred()
    service(FaultyStore(is_37, lambda: StoreError("slot is gone"))).submit(calls)
    check_that_only_37_failed(calls, StoreError)


async def test_the_37th_count_of_a_batch_makes_no_sense(reported: list[dict[str, Any]]) -> None:
    """A store that violates its contract fails only that call."""
    calls = hundred()
    service(FaultyStore(is_37, lambda: ["text"])).submit(calls)
    check_that_only_37_failed(calls, InternalError)
    assert [TypeError] == [type(context["exception"]) for context in reported]


async def test_the_observer_breaks_at_the_37th_decision(reported: list[dict[str, Any]]) -> None:
    """All hundred calls are answered."""
    calls = hundred()
    service(observer=Observed(breaks_on=lambda plan: is_37(plan.hits))).submit(calls)
    assert 100 == sum(isinstance(call.answers[0], Decision) for call in calls)
    assert 1 == len(reported)


async def test_the_37th_caller_is_gone(reported: list[dict[str, Any]]) -> None:
    """A reply that cannot be sent affects no other call."""
    calls = hundred()
    calls[37].breaks = True
    service().submit(calls)
    assert [1] * 100 == [len(call.answers) for call in calls]
    assert 1 == len(reported)


async def test_without_rules_the_service_is_not_ready() -> None:
    """Nothing is allowed or refused before there are rules."""
    made = RateLimitService(MemoryStore(lambda: NOW), Observed(), lambda: NOW)
    with pytest.raises(NotReady):
        await made.should_rate_limit(request())


async def test_a_batch_keeps_the_rules_that_it_began_with() -> None:
    """A reload before the store returns does not affect calls in flight."""
    held: list[Callable[[], None]] = []
    made = service(MemoryStore(lambda: NOW, defer=held.append))
    call = Call(request(hits=11))
    made.submit([call])
    made.use(RuleTree([DomainRules("d")]))
    held[0]()
    decision = call.answers[0]
    assert isinstance(decision, Decision)
    assert Code.OVER_LIMIT is decision.code


async def test_a_cancelled_caller_has_been_charged() -> None:
    """Hits are passed to the store before the first await. A deadline ends the waiting, not the counting."""
    held: list[Callable[[], None]] = []
    store = MemoryStore(lambda: NOW, defer=held.append)
    made = service(store)
    task = asyncio.ensure_future(made.should_rate_limit(request(hits=7)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held[0]()
    assert [7] == list((await store.read_bucket("{d|team=a}")).values())


async def test_all_calls_of_a_batch_reach_the_store_together() -> None:
    """One call of the store has all descriptors of all calls."""
    batches: list[int] = []

    class Counting(MemoryStore):
        def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
            batches.append(len(groups))
            super().hit(groups, on_outcomes)

    service(Counting(lambda: NOW)).submit(hundred())
    assert [100] == batches


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (FailureMode.ERROR, None),
        (FailureMode.ALLOW, (Code.OK, [(Code.OK, None)])),
        (FailureMode.DENY, (Code.OVER_LIMIT, [(Code.OVER_LIMIT, None)])),
    ],
)
async def test_without_the_store_the_failure_mode_decides(
    mode: FailureMode, expected: tuple[Code, list[tuple[Code, None]]] | None
) -> None:
    """STORE_FAILURE_MODE: an error, OK or OVER_LIMIT. Each of them is observed as a failure."""
    observer = Observed()
    store = FaultyStore(lambda hits: True, lambda: StoreError("gone"))
    made = RateLimitService(store, observer, lambda: NOW, Policy(failure_mode=mode, error_format="openai"))
    made.use(TREE)
    call = Call(request())
    made.submit([call])
    (answer,) = call.answers
    if expected is None:
        assert isinstance(answer, StoreError)
    else:
        assert isinstance(answer, Decision)
        assert expected == (answer.code, [(status.code, status.limit) for status in answer.statuses])
        assert (b"server_error" in answer.body) == (mode is FailureMode.DENY)
    assert [True] == [isinstance(error, StoreError) for _, error in observer.failures]


async def test_an_error_leaves_no_cycle_behind() -> None:
    """A cycle through its traceback would keep the batch until a full collection, which never happens."""
    made = service(FaultyStore(lambda hits: True, lambda: [StoreError("full")]))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            made.submit([Call(request()), Call(request(domain=""))])
            with pytest.raises(StoreError):
                await made.should_rate_limit(request())
        made._observer = Observed()  # the one before remembers them all
        assert gc.collect() < 20
    finally:
        gc.enable()
