"""The use case: one batch of calls, from the requests to the answers.

    transport ─submit(calls)─▶ plan each ─hit(groups)─▶ store ─on_outcomes(outcomes)─▶ decide each ─▶ reply

A transport submits all calls that it has read together. The service answers each of them as soon as the store
returns its counts. It uses callbacks, because a coroutine and a future for each call would cost more than the
decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

from .core.amendments.index import Amendments
from .core.answers.refusal import Refusals, Spread
from .core.decision import Count, decide, decide_without_counts
from .core.errors import InternalError, RateLimitServiceError, StoreError
from .core.gates import Gate
from .core.holds.ids import HoldIds
from .core.holds.preview import foresee
from .core.holds.results import issue, note, results, undone
from .core.ledger.hit import refusal_hits
from .core.matching.tree import RuleTree
from .core.model import OK, Decision, Hit, Request
from .core.plan import Plan, Policy
from .core.planner import Planner
from .core.prepared import Jitter
from .core.trace_context import TraceHeaders
from .deadlines import Deadlines, Patience
from .ports import Clock, CounterStore, Observer, Outcome
from .runtime.exceptions import report

FORM = "interpreted" if __file__.endswith(".py") else "compiled"
"""Whether this module is compiled, and therefore all modules in HOT in setup.py."""

Answer = Decision | RateLimitServiceError


class Prediction(NamedTuple):
    """The answer that a request would get, and its plan."""

    plan: Plan
    decision: Decision


class Call(Protocol):
    """One call of ShouldRateLimit, as a transport has read it."""

    @property
    def request(self) -> Request:
        """The request."""
        ...

    @property
    def timeout(self) -> int:
        """The milliseconds for which the caller waits; negative if it has no deadline."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the caller is known to have disconnected, so that no charge will follow its check."""
        ...

    def reply(self, answer: Answer) -> None:
        """Answer the call. Called exactly once, on the event loop, even if the caller has disconnected."""
        ...


class RateLimitService:
    """Decides on requests by the current rules.

    `submit` never raises. Each call is planned, decided and answered separately, so that an exception fails
    one call and not its batch. `patience` is how long calls wait for the store; None for no bound.
    """

    traced = False
    """Whether the transports read the trace contexts of calls (tracing/service.py)."""

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
        ids: HoldIds | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self._store = store
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self.missed = 0
        """The number of calls that were answered without the store, because it took too long."""
        self._deadlines = Deadlines(patience) if patience is not None else None
        self._spread = spread
        self._tree: RuleTree | None = None
        self._amendments = amendments if amendments is not None else Amendments()
        self._ids = ids
        self._planner = Planner(None, self.policy, jitter, self._amendments, ids)
        self._refusals = Refusals(self.policy, None, spread)

    @property
    def tree(self) -> RuleTree | None:
        """The current rules; None until the first rules are loaded."""
        return self._tree

    def use(self, tree: RuleTree) -> Planner:
        """Use these rules for every later call. Calls in flight keep the rules of their plan.

        Return the previous planner, so that its caches can be released gradually.
        """
        previous = self._planner
        self._planner = Planner(tree, self.policy, self._jitter, self._amendments, self._ids)
        self._tree = tree
        self._refusals = Refusals(self.policy, tree, self._spread)
        return previous

    def apply_amendments(self) -> None:
        """Apply changed amendments to every later call."""
        self._planner.apply_amendments()

    def submit(self, calls: Sequence[Call]) -> None:
        """Decide on calls, and answer each of them: at once, when the store returns, or at its deadline."""
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
        if waiting and self._deadlines is not None:  # the store has not returned yet
            self._deadlines.watch(waiting, partial(self._expire, waiting, plans))

    def refused_early(self, trace: TraceHeaders | None, error: RateLimitServiceError) -> None:
        """Observe a call that a transport has refused before it was submitted. Only tracing does."""

    async def should_rate_limit(
        self, request: Request, milliseconds: int = -1, trace: TraceHeaders | None = None
    ) -> Decision:
        """Decide on one request. Raises an answer that is an error.

        Cancelling the awaiting task does not cancel the hits. `milliseconds` is Call.timeout.
        """
        call = _AwaitedCall(request, milliseconds, trace)
        self.submit([call])
        try:
            return await call.future
        finally:
            del call  # an error refers to this frame, and through it to itself

    async def foresee(self, request: Request) -> Prediction:
        """Return the answer that a request would get now. Nothing is counted or observed. Raises the same
        errors as should_rate_limit.
        """
        plan = self._planner.plan(request, int(self._clock()))
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        places = [place for place, hit in enumerate(plan.hits) if not hit.gate & Gate.ASIDE]
        checks = [Hit(plan.hits[place].key, 0, ttl=1) for place in places]
        self._store.hit([checks], lambda outcomes: None if answer.done() else answer.set_result(outcomes))
        (outcome,) = await answer
        if isinstance(outcome, StoreError):
            raise outcome
        counts: list[Count] = [0] * len(plan.hits)
        for place, count in zip(places, outcome, strict=True):
            counts[place] = count
        if len(places) < len(plan.hits):
            keys = [hit.key for hit in plan.hits if hit.gate & Gate.ASIDE]
            found = foresee(plan.hits, counts, await self._store.read_holds(keys, plan.now))
            for place, result in found.items():
                counts[place] = result
        return Prediction(plan, decide(self.policy, plan, counts, self._refusals))

    def _answer(self, waiting: list[Call | None], plans: list[Plan], outcomes: Sequence[Outcome]) -> None:
        """Answer the waiting calls of a batch, and empty its lists, which Deadlines may keep for longer."""
        policy, refusals, observe = self.policy, self._refusals, self._observer.decided
        refusing: list[Hit] = []
        plan: Plan
        for call, plan, outcome in zip(waiting, plans, outcomes, strict=True):
            if call is None:  # answered by _expire
                if plan.holds:
                    self._end_holds(plan, outcome)
                continue
            try:
                if isinstance(outcome, StoreError):
                    raise outcome
                decision = decide(policy, plan, outcome, refusals)
                if plan.holds:
                    self._hold(call, plan, outcome, decision)
                if decision.code is not OK:
                    refusing += refusal_hits(plan, decision, self._planner.period)
            except Exception as error:
                self._fail(call, plan, error)
                continue
            try:
                observe(plan, decision)
            except Exception as error:
                report("observing a decision failed", error)
            try:
                call.reply(decision)
            except Exception as error:
                report("a call could not be answered", error)
        waiting.clear()
        plans.clear()
        if refusing:
            self._store.hit([refusing], lambda outcomes: None)

    def _hold(self, call: Call, plan: Plan, counts: Sequence[Count], decision: Decision) -> None:
        """Issue the id of the holds of a check, or end them if no gateway would return it."""
        if note(plan, counts):  # the plans of this second are for a bucket far from its limit
            self._planner.apply_amendments()
        decision.held = results(plan, counts)
        if decision.code is not OK or call.gone:
            self._end_holds(plan, counts)
        elif self._ids is not None:
            decision.hold = issue(self._ids, plan, counts)

    def _end_holds(self, plan: Plan, outcome: Outcome) -> None:
        """End the holds of a check whose caller has disconnected, or that another part of a Cluster
        refused.
        """
        if isinstance(outcome, StoreError):
            return
        ends = undone(plan, outcome)
        if ends:
            self._store.hit([ends], lambda outcomes: None)

    def _expire(self, waiting: list[Call | None], plans: list[Plan], index: int, seconds: float) -> None:
        """Answer a call at its deadline, although the store has not returned."""
        call, plan = waiting[index], plans[index]
        waiting[index] = None
        outcome: Outcome = ()
        if plan.hits:
            self.missed += 1
            outcome = StoreError(f"the store did not answer within {seconds * 1000:g} ms")
        self._answer([call], [plan], [outcome])

    def _fail(self, call: Call, plan: Plan | None, error: Exception) -> None:
        if not isinstance(error, RateLimitServiceError):
            report("a call could not be decided", error)
            error = InternalError("internal error")
        # The frames of its traceback refer to the batch, and so to the call that keeps the error as its
        # answer. If such a cycle survives two young collections, it stays until a full one, which is rare
        # (runtime/garbage.py).
        error.__traceback__ = None
        try:
            self._observer.failed(plan, error)
        except Exception as failure:
            report("observing an error failed", failure)
        answer: Answer = error
        if isinstance(error, StoreError) and plan is not None:
            answer = decide_without_counts(self.policy, plan, self._refusals) or error
        self._reply(call, answer)

    def _reply(self, call: Call, answer: Answer) -> None:
        try:
            call.reply(answer)
        except Exception as error:
            report("a call could not be answered", error)


class _AwaitedCall:
    """A call whose answer is a future."""

    __slots__ = ("future", "request", "timeout", "trace")

    def __init__(self, request: Request, timeout: int, trace: TraceHeaders | None) -> None:
        self.request = request
        self.timeout = timeout
        self.trace = trace
        self.future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        return self.future.done()

    def reply(self, answer: Answer) -> None:
        if self.future.done():  # the awaiting task was cancelled
            return
        if isinstance(answer, Decision):
            self.future.set_result(answer)
        else:
            self.future.set_exception(answer)
