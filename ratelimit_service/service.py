"""The use case: one batch of calls from its requests to its answers.

    transport ──submit(calls)──▶ plan each ──one hand-over──▶ store ──then(outcomes)──▶ decide each ──▶ call.reply

A transport hands over all calls that it has read together, and each is answered as soon as its counts are there.
Callbacks, not a coroutine and a future for each call, because those would cost more than the decision itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from .core.decision import decide, decide_without_counts
from .core.errors import InternalError, RateLimitServiceError, StoreError
from .core.matching.tree import RuleTree
from .core.model import Decision, Request
from .core.planner import Jitter, Planner
from .core.planning import Plan, Policy
from .ports import Clock, CounterStore, Observer, Outcome

Answer = Decision | RateLimitServiceError


class Call(Protocol):
    """One call that a transport has read."""

    @property
    def request(self) -> Request:
        """What is asked."""
        ...

    def reply(self, answer: Answer) -> None:
        """Answer it. Called exactly once, on the event loop; the caller may be long gone by then."""
        ...


class RateLimitService:
    """Decides on requests by the rules it has been given last.

    `submit` never raises. Each call is planned, decided and answered on its own, so that what goes wrong with one of a
    batch stays with that one.
    """

    def __init__(
        self,
        store: CounterStore,
        observer: Observer,
        clock: Clock,
        policy: Policy | None = None,
        jitter: Jitter = lambda: 0,
    ) -> None:
        self.policy = policy or Policy()
        self._store = store
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self._tree: RuleTree | None = None
        self._planner = Planner(None, self.policy, jitter)

    @property
    def tree(self) -> RuleTree | None:
        """The rules in force; None before the first are loaded."""
        return self._tree

    def use(self, tree: RuleTree) -> Planner:
        """Put rules in force for every call from now on. Those under way keep the rules that they began with.

        Who has planned until now comes back, with all that it remembers of the rules before.
        """
        before, self._planner = self._planner, Planner(tree, self.policy, self._jitter)
        self._tree = tree
        return before

    def submit(self, calls: Sequence[Call]) -> None:
        """Decide on calls and answer each of them, now or when the store has answered."""
        plan_of, now = self._planner.plan, int(self._clock())
        planned: list[tuple[Call, Plan]] = []
        for call in calls:
            try:
                plan = plan_of(call.request, now)
            except Exception as error:
                self._fail(call, None, error)
            else:
                planned.append((call, plan))
        if planned:
            self._store.hit([plan.hits for _, plan in planned], partial(self._answer, planned))

    async def should_rate_limit(self, request: Request) -> Decision:
        """Decide on one request. Raises what the request is answered with where that is an error.

        The counting goes on where the awaiting task is cancelled.
        """
        call = _Awaited(request)
        self.submit([call])
        return await call.future

    def _answer(self, planned: Sequence[tuple[Call, Plan]], outcomes: Sequence[Outcome]) -> None:
        policy, observe = self.policy, self._observer.decided
        for (call, plan), outcome in zip(planned, outcomes, strict=True):
            try:
                if isinstance(outcome, StoreError):
                    raise outcome
                decision = decide(policy, plan, outcome)
            except Exception as error:
                self._fail(call, plan, error)
                continue
            try:
                observe(plan, decision)
            except Exception:
                _report("observing a decision failed")
            self._reply(call, decision)

    def _fail(self, call: Call, plan: Plan | None, error: Exception) -> None:
        if not isinstance(error, RateLimitServiceError):
            _report("a call could not be decided")
            error = InternalError("internal error")
        try:
            self._observer.failed(plan, error)
        except Exception:
            _report("observing an error failed")
        answer: Answer = error
        if isinstance(error, StoreError) and plan is not None:
            answer = decide_without_counts(self.policy, plan) or error
        self._reply(call, answer)

    def _reply(self, call: Call, answer: Answer) -> None:
        try:
            call.reply(answer)
        except Exception:
            _report("a call could not be answered")


def _report(message: str) -> None:
    """Tell the event loop's exception handler of the exception at hand: app.py logs what reaches it."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": sys.exc_info()[1]})


class _Awaited:
    """A call whose answer is a future."""

    __slots__ = ("future", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    def reply(self, answer: Answer) -> None:
        if self.future.done():  # its caller has gone
            return
        if isinstance(answer, Decision):
            self.future.set_result(answer)
        else:
            self.future.set_exception(answer)
