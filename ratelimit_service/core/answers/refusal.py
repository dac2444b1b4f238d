"""The refusal of a request: why, until when, and whether a retry helps.

| refused because | retry-after | x-should-retry | code in the body |
|---|---|---|---|
| its limit resets within REFUSAL_RETRY_WITHIN (SOON) | yes | | rate_limit_exceeded |
| the rest of its budget is held by requests in flight (SOON) | yes, 1 to 10 s | | rate_limit_exceeded |
| its limit resets later (LATER) | yes | false | insufficient_quota |
| the rules or the request would have to change (NEVER) | | false | insufficient_quota |
| its counters could not be reached (UNKNOWN) | | | rate_limit_exceeded |

SDKs retry a 429 by themselves. Some obey any `retry-after`, and some ignore a long one. `x-should-retry:
false` stops the SDKs of OpenAI and Anthropic (docs/refusals.md). Gateways forward `response_headers_to_add`
and `raw_body`, which carry both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..cache import MIB, BoundedCache
from ..matching.tree import RuleTree
from ..model import (
    OVER_LIMIT,
    STATUS_CODE,
    TALLY_LIMIT,
    TALLY_RULE,
    TALLY_USES,
    USE_AFTER,
    USE_END,
    USE_LIMIT,
    USE_OVER,
    Entry,
    Header,
    Rule,
    StatusValues,
    TallyValues,
)
from ..plan import Plan, Policy
from ..text import printable
from ..windows.blocks import length
from .dialects import DIALECTS, Dialect
from .dialects.fault import Fault, Outlook
from .limit_headers import limit_text
from .template import Template
from .wording import Instants, Wording, fault_in_flight

HEADERS = ("retry-after", "content-type", "x-should-retry", "x-envoy-ratelimited", "x-ratelimit")
"""The values of REFUSAL_HEADERS. `x-ratelimit` stands for three headers: -limit, -remaining and -reset."""

Spread = Callable[[], int]
"""Seconds added to a retry-after, so that the callers of a bucket do not all return at once."""

_WordingKey = tuple[Rule, int, Outlook]
_RefusalKey = tuple[Rule, int, bool, tuple[Entry, ...], int, int, int]
_DenialKey = tuple[str, str, Outlook]

_NOT_REACHED = "the store of its counters cannot be reached"
_UNBOUNDED = 2**62
_MOST_DELAYS = 8
"""The variants of a refusal that are cached, one for each retry-after."""


class Refusal(NamedTuple):
    """The headers and the body of a refusal; empty if the policy has neither."""

    headers: tuple[Header, ...]
    body: bytes


_EMPTY = Refusal((), b"")


class _LimitRefusal:
    """A refusal by a limit, but for its retry-after, which is at most `latest` seconds.

    `variants` has the refusals that were sent, by their retry-after.
    """

    __slots__ = ("_body", "_headers", "latest", "variants")

    def __init__(self, headers: tuple[Header, ...], body: bytes, latest: int) -> None:
        self._headers = headers
        self._body = body
        self.latest = latest
        self.variants: dict[int, Refusal] = {}

    def after(self, delay: int) -> Refusal:
        """Return the refusal with a retry-after of `delay` seconds, or without a retry-after if that is 0."""
        first = (Header("retry-after", str(delay)),) if delay else ()
        refusal = Refusal((*first, *self._headers), self._body)
        if len(self.variants) < _MOST_DELAYS:
            self.variants[delay] = refusal
        return refusal

    @property
    def weight(self) -> int:
        """The approximate bytes of memory that it takes."""
        return 600 + len(self._body) + 200 * _MOST_DELAYS


class Refusals:
    """Writes refusals by one set of rules, and caches what one refusal has in common with the next.

    A reload makes a new one, so nothing of the previous rules stays.
    """

    def __init__(self, policy: Policy, tree: RuleTree | None = None, spread: Spread = lambda: 0) -> None:
        self._policy = policy
        self._domains = tree.domains if tree is not None else {}
        self._spread = spread
        self._silent = not (policy.refusal_headers or policy.error_format)
        self._instants = Instants()
        self._wordings: BoundedCache[_WordingKey, Wording] = BoundedCache(
            MIB, lambda key, wording: wording.weight
        )
        # A refused caller retries, and receives the same refusal until a second has passed.
        self._by_limit: BoundedCache[_RefusalKey, _LimitRefusal] = BoundedCache(2 * MIB, _weight_of_refusal)
        self._newest = self._by_limit.newest
        self._denials: BoundedCache[_DenialKey, Refusal] = BoundedCache(MIB, _weight_of_denial)

    def by_limit(
        self, plan: Plan, statuses: Sequence[StatusValues], tallies: Sequence[TallyValues | None]
    ) -> Refusal:
        """Return the refusal of a request that a limit refuses."""
        index = 0 if len(statuses) == 1 else _refusing_descriptor(plan, statuses, tallies)
        tally = tallies[index]
        assert tally is not None
        limit, never = _refusing_limit(plan.addends[index], tally)
        rule, use = tally[TALLY_RULE], tally[TALLY_USES][limit]
        if self._silent and not rule.error_format:
            return _EMPTY
        end = use[USE_END]
        reset = end - plan.now
        entries = plan.request.descriptors[index].entries
        key = (rule, limit, never, entries, use[USE_AFTER], end, reset)
        refusal = self._newest(key) or self._by_limit.get(key)
        if refusal is None:
            refusal = self._write(*key)
            self._by_limit.put(key, refusal)
        delay = reset + self._spread()
        if delay > refusal.latest:
            delay = refusal.latest
        return refusal.variants.get(delay) or refusal.after(delay)

    def in_flight(self, plan: Plan, in_flight: tuple[int, int, int]) -> Refusal:
        """Return the refusal of a request whose budget is held by requests in flight (Decision.in_flight).

        It asks for a retry soon, also where the window is long: holds end with their requests.
        """
        index, held, delay = in_flight
        rule = plan.descriptors[index].rule
        assert rule is not None
        policy = self._policy
        dialect = _dialect(policy, rule.error_format)
        outlook = Outlook.SOON
        headers = []
        if "retry-after" in policy.refusal_headers:
            headers.append(Header("retry-after", str(delay)))
        if "x-ratelimit" in policy.refusal_headers:
            headers += (Header("x-ratelimit-remaining", "0"), Header("x-ratelimit-reset", str(delay)))
        headers += _fixed_headers(policy, outlook, dialect)
        if dialect is None:
            return Refusal(tuple(headers), b"")
        fault = fault_in_flight(rule, held, delay, minimal=policy.minimal(rule.error_details))
        return Refusal(tuple(headers), Template(dialect.body(fault)).fill({}))

    def by_rules(self, plan: Plan) -> Refusal:
        """Return the refusal of a request that the rules refuse for the reason `plan.denial`."""
        message = f"The request is refused: {plan.denial}. Retrying does not help."
        return self._without_limit(plan.request.domain, message, Outlook.NEVER)

    def without_counts(self, plan: Plan) -> Refusal:
        """Return the refusal of a request whose counters could not be reached."""
        message = f"The request is refused: {_NOT_REACHED}."
        return self._without_limit(plan.request.domain, message, Outlook.UNKNOWN)

    def _without_limit(self, domain: str, message: str, outlook: Outlook) -> Refusal:
        rules = self._domains.get(domain)
        error_format, error_details = ("", "") if rules is None else (rules.error_format, rules.error_details)
        if self._silent and not error_format:
            return _EMPTY
        key = (domain, message, outlook)
        refusal = self._denials.get(key)
        if refusal is None:
            dialect = _dialect(self._policy, error_format)
            fault = Fault(outlook, message, "" if self._policy.minimal(error_details) else printable(domain))
            body = b"" if dialect is None else Template(dialect.body(fault)).fill({})
            refusal = Refusal(tuple(_fixed_headers(self._policy, outlook, dialect)), body)
            self._denials.put(key, refusal)
        return refusal

    def _write(
        self,
        rule: Rule,
        limit: int,
        never: bool,
        entries: tuple[Entry, ...],
        used: int,
        end: int,
        reset: int,
    ) -> _LimitRefusal:
        """Write the refusal by the limit with index `limit`, which resets at `end`, in `reset` seconds."""
        policy = self._policy
        soon = policy.retry_within
        outlook = Outlook.NEVER if never else Outlook.SOON if reset <= soon else Outlook.LATER
        key = (rule, limit, outlook)
        wording = self._wordings.get(key)
        if wording is None:
            minimal = policy.minimal(rule.error_details)
            wording = Wording(rule, limit, outlook, _dialect(policy, rule.error_format), minimal=minimal)
            self._wordings.put(key, wording)
        headers: list[Header] = []
        if "x-ratelimit" in policy.refusal_headers:
            if not policy.minimal(rule.error_details):
                headers.append(Header("x-ratelimit-limit", limit_text(rule.limits, rule.limits[limit])))
            headers.append(Header("x-ratelimit-remaining", "0"))
            headers.append(Header("x-ratelimit-reset", str(reset)))
        headers += _fixed_headers(policy, outlook, _dialect(policy, rule.error_format))
        latest = _UNBOUNDED
        if never or "retry-after" not in policy.refusal_headers:
            latest = 0
        elif outlook is Outlook.SOON:  # clients ignore a longer one
            latest = soon
        body = wording.body(entries, used, end, reset, self._instants)
        return _LimitRefusal(tuple(headers), body, latest)


def _dialect(policy: Policy, error_format: str) -> Dialect | None:
    return DIALECTS.get(error_format or policy.error_format)


def _fixed_headers(policy: Policy, outlook: Outlook, dialect: Dialect | None) -> list[Header]:
    """Return the headers that depend only on the outlook and the dialect."""
    wanted = policy.refusal_headers
    headers = []
    if "x-should-retry" in wanted and outlook in (Outlook.LATER, Outlook.NEVER):
        headers.append(Header("x-should-retry", "false"))
    if "content-type" in wanted and dialect is not None:
        headers.append(Header("content-type", dialect.content_type))
    if "x-envoy-ratelimited" in wanted:
        headers.append(Header("x-envoy-ratelimited", "true"))
    return headers


def _weight_of_refusal(key: _RefusalKey, refusal: _LimitRefusal) -> int:
    return refusal.weight + sum([200 + len(name) + len(value) for name, value in key[3]])


def _weight_of_denial(key: _DenialKey, refusal: Refusal) -> int:
    return 1_000 + len(key[0]) + 2 * len(key[1]) + len(refusal.body)


def _refusing_descriptor(
    plan: Plan, statuses: Sequence[StatusValues], tallies: Sequence[TallyValues | None]
) -> int:
    """Return the index of the descriptor that a refusal is about.

    It is the one that takes longest to reset (of two that reset together, the one with the longer window).
    Quota rules refuse only together, so among descriptors of quota rules alone, it is the one that resets
    first.
    """
    waits = []
    for index, status in enumerate(statuses):
        if status[STATUS_CODE] is OVER_LIMIT:
            tally = tallies[index]
            assert tally is not None
            limit, never = _refusing_limit(plan.addends[index], tally)
            use = tally[TALLY_USES][limit]
            wait = math.inf if never else use[USE_END] - plan.now
            waits.append((wait, length(use[USE_LIMIT].window), index))
    strict = [wait for wait in waits if not plan.descriptors[wait[-1]].quota]
    if strict:
        _, _, index = max(strict, key=lambda wait: wait[:2])
    else:
        _, _, index = min(waits, key=lambda wait: wait[0])
    return index


def _refusing_limit(addend: int, tally: TallyValues) -> tuple[int, bool]:
    """Return the index of the limit that a refusal is about, and whether it can never pass this request.

    It is the first limit that can never pass the request, or else the one that the status shows.
    """
    rule, shown = tally[TALLY_RULE], tally[TALLY_LIMIT]
    index_of_shown = 0
    for index, use in enumerate(tally[TALLY_USES]):
        limit = use[USE_LIMIT]
        if use[USE_OVER] and (limit.amount == 0 or (addend > limit.amount and not rule.budget)):
            return index, True
        if limit is shown:
            index_of_shown = index
    return index_of_shown, False
