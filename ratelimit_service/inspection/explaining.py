"""Explains the answer that a descriptor would get now. Nothing is counted.

The rule comes from the tree, the answer from the service itself: the same plan, the same decision and the
same explanation that `ratelimit-service ask` gets by gRPC.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

from ..core.amendments.index import Amendments
from ..core.answers.explanation import EXPLANATION
from ..core.budgets.bucket import Budget
from ..core.budgets.rule_candidates import AmendmentNow, PossibleRules, RuleChoice, consider, possible, why
from ..core.errors import InvalidRequest
from ..core.model import COUNTER_MAX, OVER_LIMIT, TALLY_OVER, Decision, Descriptor, Entry, Request
from ..core.plan import Plan
from ..ports import CounterStore
from .joining import Joiner


class Prediction(Protocol):
    """The answer that a request would get (service.py)."""

    @property
    def plan(self) -> Plan:
        """Its plan."""
        ...

    @property
    def decision(self) -> Decision:
        """The answer."""
        ...


Foresee = Callable[[Request], Awaitable[Prediction]]
"""Returns the answer that a request would get now, and counts nothing."""


class Answer(NamedTuple):
    """The answer to a caller: the code, the remaining budget, its reset (0: never), and the message of a
    refusal.
    """

    code: str
    remaining: int | None
    resets_at: int
    message: str


class Explanation(NamedTuple):
    """The answer that a descriptor would get, and the reasons for it.

    `verdict` is `ok`, `over`, `held` (by requests in flight), `shadowed` (over, and let through), `blocked`,
    `denied` (by the domain), `unlimited`, `unmatched`, or `unknown` where the domain has no rules.
    """

    domain: str
    entries: tuple[Entry, ...]
    verdict: str
    considered: RuleChoice
    amendments: tuple[AmendmentNow, ...]
    budget: Budget | None
    answer: Answer
    possible: PossibleRules
    explanation: Mapping[str, Any]
    """What `ask` shows (core/answers/explanation.py)."""


async def explain(
    joiner: Joiner,
    store: CounterStore,
    amendments: Amendments,
    foresee: Foresee,
    domain: str,
    entries: tuple[Entry, ...],
    hits: int,
    now: int,
) -> Explanation:
    """Explain the answer to a request with one descriptor. Raises InvalidRequest, NotReady or StoreError."""
    if not 0 <= hits <= COUNTER_MAX:
        raise InvalidRequest(f"hits are 0 (a check) to {COUNTER_MAX}, not {hits}")
    # Holds never refuse a request with `explain`, so the answer comes from the same request without it.
    asked = Request(domain, (Descriptor(entries, hits_addend=hits),))
    plan, decision = await _foreseen(foresee, asked)
    _, explained = await _foreseen(foresee, asked._replace(explain=True))
    rules = joiner.tree.domains.get(domain) if joiner.tree is not None else None
    known = joiner.matched(domain, entries, now)
    budget = None
    if known is not None:
        held = await store.read_holds([known.holds], now) if known.holds else {}
        budget = joiner.budget(known, await store.read_counters(known.counters), held)
    of_bucket = rules.entries_of_bucket(entries) if rules is not None else entries
    stack = amendments.find(domain, of_bucket, rules.limits if rules is not None else None)
    explanation = (explained.dynamic_metadata or {}).get(EXPLANATION, {})
    return Explanation(
        domain,
        entries,
        _verdict(plan, decision),
        consider(rules, entries) if rules is not None else RuleChoice(None, ()),
        tuple(why(stack, known.now if known is not None else None, now)),
        budget,
        _answer(decision, now),
        possible(rules, entries) if rules is not None else PossibleRules(()),
        explanation,
    )


async def _foreseen(foresee: Foresee, request: Request) -> tuple[Plan, Decision]:
    found = await foresee(request)
    return found.plan, found.decision


def _verdict(plan: Plan, decision: Decision) -> str:
    (planned,), (tally,) = plan.descriptors, decision.tally_values
    if not plan.known_domain and not planned.blocked:
        return "unknown"
    if planned.blocked:
        return "blocked"
    if plan.denial:
        return "denied"
    if tally is None:
        return "unmatched" if planned.rule is None else "unlimited"
    if decision.in_flight is not None and decision.code is OVER_LIMIT:
        return "held"
    if not tally[TALLY_OVER]:
        return "ok"
    if any(one.blocks for one in planned.amendments):
        return "blocked"
    return "over" if decision.code is OVER_LIMIT else "shadowed"


def _answer(decision: Decision, now: int) -> Answer:
    (status,) = decision.statuses
    limited = decision.tally_values[0] is not None
    return Answer(
        decision.code.name,
        status.remaining if limited else None,
        now + status.reset if limited and status.reset else 0,
        _message(decision.body),
    )


def _message(body: bytes) -> str:
    """Return the message in the body of a refusal, in whichever format."""
    try:
        found: Any = json.loads(body) if body else {}
        error = found.get("error", found)
        return str(error.get("message") or error.get("detail") or "")
    except (ValueError, AttributeError):
        return ""
