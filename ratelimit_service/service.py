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

from .core.amendments.index import Amendments
from .core.answers.refusal import Refusals, Spread
from .core.decision import decide, decide_without_counts
from .core.errors import InternalError, RateLimitServiceError, StoreError
from .core.matching.tree import RuleTree
from .core.model import Decision, Request
from .core.planner import Planner
from .core.planning import Plan, Policy
from .core.prepared import Jitter
from .deadlines import Deadlines, Patience
from .ports import Clock, CounterStore, Observer, Outcome

Answer = Decision | RateLimitServiceError


class Call(Protocol):
    """One call that a transport has read."""

    @property
    def request(self) -> Request:
        """What is asked."""
        ...

    @property
    def timeout(self) -> int:
        """Milliseconds for which its caller waits; below 0 where it does not say."""
        ...

    def reply(self, answer: Answer) -> None:
        """Answer it. Called exactly once, on the event loop; the caller may be long gone by then."""
        ...


class RateLimitService:
    """Decides on requests by the rules it has been given last.

    `submit` never raises. Each call is planned, decided and answered on its own, so that what goes wrong with one of a
    batch stays with that one. `patience` is how long calls wait for the store; None: for as long as it takes.
    """

    def __init__(
        self,
        store: CounterStore,
        observer: Observer,
        clock: Clock,
        policy: Policy | None = None,
        jitter: Jitter = lambda: 0,
        patience: Patience | None = None,
        spread: Spread = lambda: 0,
        amendments: Amendments | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self._store = store
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self.missed = 0
        """How many calls had to be answered without the store, because their callers would not have waited."""
        self._deadlines = Deadlines(patience) if patience is not None else None
        self._spread = spread
        self._tree: RuleTree | None = None
        self._amendments = amendments if amendments is not None else Amendments()
        self._planner = Planner(None, self.policy, jitter, self._amendments)
        self._refusals = Refusals(self.policy, None, spread)

    @property
    def tree(self) -> RuleTree | None:
        """The rules in force; None before the first are loaded."""
        return self._tree

    def use(self, tree: RuleTree) -> Planner:
        """Put rules in force for every call from now on. Those under way keep the rules that they began with.

        Who has planned until now comes back, with all that it remembers of the rules before.
        """
        before, self._planner = self._planner, Planner(tree, self.policy, self._jitter, self._amendments)
        self._tree = tree
        self._refusals = Refusals(self.policy, tree, self._spread)
        return before

    def amended(self) -> None:
        """Plan every call from now on by the amendments as they are now: they have changed."""
        self._planner.amended()

    def submit(self, calls: Sequence[Call]) -> None:
        """Decide on calls and answer each of them: now, when the store has answered, or when the call is due."""
        plan_of, now = self._planner.plan, int(self._clock())
        waiting: list[Call | None] = []
        plans: list[Plan] = []
        for call in calls:
            try:
                plan = plan_of(call.request, now)
            except Exception as error:
                self._fail(call, None, error)
            else:
                waiting.append(call)
                plans.append(plan)
        if waiting:
            self._store.hit([plan.hits for plan in plans], partial(self._answer, waiting, plans))
        if waiting and self._deadlines is not None:  # the store has not answered at once
            self._deadlines.watch(waiting, partial(self._late, waiting, plans))

    async def should_rate_limit(self, request: Request, milliseconds: int = -1) -> Decision:
        """Decide on one request. Raises what the request is answered with where that is an error.

        The counting goes on where the awaiting task is cancelled. `milliseconds` is how long the caller waits (Call.timeout).
        """
        call = _Awaited(request, milliseconds)
        self.submit([call])
        try:
            return await call.future
        finally:
            del call  # an error would hold this frame, and so itself

    def _answer(self, waiting: list[Call | None], plans: list[Plan], outcomes: Sequence[Outcome]) -> None:
        """Answer the calls of a batch that still wait, and empty it: Deadlines may keep it for longer."""
        policy, refusals, observe = self.policy, self._refusals, self._observer.decided
        for call, plan, outcome in zip(waiting, plans, outcomes, strict=True):
            if call is None:  # answered when it was due
                continue
            try:
                if isinstance(outcome, StoreError):
                    raise outcome
                decision = decide(policy, plan, outcome, refusals)
            except Exception as error:
                self._fail(call, plan, error)
                continue
            try:
                observe(plan, decision)
            except Exception:
                _report("observing a decision failed")
            self._reply(call, decision)
        waiting.clear()
        plans.clear()

    def _late(self, waiting: list[Call | None], plans: list[Plan], place: int, seconds: float) -> None:
        """Answer a call whose caller waits no longer for the store."""
        call, plan = waiting[place], plans[place]
        waiting[place] = None
        outcome: Outcome = ()
        if plan.hits:
            self.missed += 1
            outcome = StoreError(f"the store did not answer within {seconds * 1000:g} ms")
        self._answer([call], [plan], [outcome])

    def _fail(self, call: Call, plan: Plan | None, error: Exception) -> None:
        if not isinstance(error, RateLimitServiceError):
            _report("a call could not be decided")
            error = InternalError("internal error")
        # Its traceback has frames that hold the whole batch, and the call that the error is the answer to: a cycle. Those that
        # outlive two young collections are kept until a full one, of which there are next to none (app.py).
        error.__traceback__ = None
        try:
            self._observer.failed(plan, error)
        except Exception:
            _report("observing an error failed")
        answer: Answer = error
        if isinstance(error, StoreError) and plan is not None:
            answer = decide_without_counts(self.policy, plan, self._refusals) or error
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

    __slots__ = ("future", "request", "timeout")

    def __init__(self, request: Request, timeout: int) -> None:
        self.request = request
        self.timeout = timeout
        self.future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    def reply(self, answer: Answer) -> None:
        if self.future.done():  # its caller has gone
            return
        if isinstance(answer, Decision):
            self.future.set_result(answer)
        else:
            self.future.set_exception(answer)
