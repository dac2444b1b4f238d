"""The refusal of a request: why, until when, and whether a retry helps.

| refused because | retry-after | x-should-retry | code in the body |
|---|---|---|---|
| its limit resets within REFUSAL_RETRY_WITHIN (SOON) | yes | | rate_limit_exceeded |
| its limit resets later (LATER) | yes | false | insufficient_quota |
| the rules or the request are what they are (NEVER) | | false | insufficient_quota |
| its counters could not be reached (UNKNOWN) | | | rate_limit_exceeded |

SDKs retry a 429 by themselves. Some obey a `retry-after` however long it is, some ignore a long one; `x-should-retry: false`
stops those of OpenAI and Anthropic (docs/refusals.md). Gateways pass both on from `response_headers_to_add` and `raw_body`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..matching.tree import RuleTree
from ..model import OVER_LIMIT, Entry, Header, Rule, StatusValues, TallyValues
from ..planning import Plan, Policy
from ..recent import MIB, Recent
from ..text import printable
from ..windows.blocks import length
from .dialects import DIALECTS, Dialect, Fault, Outlook
from .limit_headers import limit_text
from .template import Template
from .wording import Wording

HEADERS = ("retry-after", "content-type", "x-should-retry", "x-envoy-ratelimited", "x-ratelimit")
"""The names that REFUSAL_HEADERS may have. `x-ratelimit` is three of them: -limit, -remaining and -reset."""

Spread = Callable[[], int]
"""How many seconds are added to a retry-after, so that the callers of one bucket do not all come back in one second."""

_Which = tuple[Rule, int, Outlook]
_Told = tuple[Rule, int, bool, tuple[Entry, ...], int, int, int]
_Denial = tuple[str, str, Outlook]

_NOT_REACHED = "the store of its counters cannot be reached"
_UNBOUNDED = 2**62
_MOST_DELAYS = 8
"""How many variants of a refusal are cached, one for each retry-after."""


class Refusal(NamedTuple):
    """Headers and body of a refusal; empty where the policy has none."""

    headers: tuple[Header, ...]
    body: bytes


_SILENCE = Refusal((), b"")


class _Written:
    """A refusal but for its retry-after, which is at most `latest`; `variants` are those that were sent, by their retry-after."""

    __slots__ = ("_body", "_headers", "latest", "variants")

    def __init__(self, headers: tuple[Header, ...], body: bytes, latest: int) -> None:
        self._headers = headers
        self._body = body
        self.latest = latest
        self.variants: dict[int, Refusal] = {}

    def after(self, delay: int) -> Refusal:
        """The refusal with a retry-after of so many seconds; without one where that is 0."""
        first = (Header("retry-after", str(delay)),) if delay else ()
        refusal = Refusal((*first, *self._headers), self._body)
        if len(self.variants) < _MOST_DELAYS:
            self.variants[delay] = refusal
        return refusal

    @property
    def weight(self) -> int:
        """Bytes of memory."""
        return 600 + len(self._body) + 200 * _MOST_DELAYS


class Refusals:
    """Writes refusals by one set of rules, and caches what one refusal has in common with the next.

    A reload makes a new one, so nothing of the previous rules is kept.
    """

    def __init__(self, policy: Policy, tree: RuleTree | None = None, spread: Spread = lambda: 0) -> None:
        self._policy = policy
        self._domains = tree.domains if tree is not None else {}
        self._spread = spread
        self._silent = not (policy.refusal_headers or policy.error_format)
        self._wordings: Recent[_Which, Wording] = Recent(MIB, lambda which, wording: wording.weight)
        # A refused caller retries, and receives the same refusal until a second has passed.
        self._written: Recent[_Told, _Written] = Recent(2 * MIB, _weight_of_written)
        self._newest = self._written.newest
        self._denials: Recent[_Denial, Refusal] = Recent(MIB, _weight_of_denial)

    def by_limit(
        self, plan: Plan, told: Sequence[StatusValues], counted: Sequence[TallyValues | None]
    ) -> Refusal:
        """Return the refusal of a request that a limit refuses."""
        place = 0
        values = counted[0]
        if len(told) > 1:
            place = _refusing(plan, told, counted)
            values = counted[place]
        assert values is not None
        which, never = _which(plan.costs[place], values)
        _, rule, _, _, _, _, _, _, windows = values
        if self._silent and not rule.error_format:
            return _SILENCE
        _, _, end, _, used, _, _ = windows[which]
        reset = end - plan.now
        key = (rule, which, never, plan.request.descriptors[place].entries, used, end, reset)
        written = self._newest(key) or self._written.get(key)
        if written is None:
            written = self._write(*key)
            self._written.put(key, written)
        delay = reset + self._spread()
        if delay > written.latest:
            delay = written.latest
        return written.variants.get(delay) or written.after(delay)

    def by_rules(self, plan: Plan) -> Refusal:
        """Return the refusal of a request that the rules refuse whatever the counters hold; `plan.denied` says why."""
        message = f"The request is refused: {plan.denied}. Retrying does not help."
        return self._without_limit(plan.request.domain, message, Outlook.NEVER)

    def without_counts(self, plan: Plan) -> Refusal:
        """Return the refusal of a request whose counters could not be reached."""
        message = f"The request is refused: {_NOT_REACHED}."
        return self._without_limit(plan.request.domain, message, Outlook.UNKNOWN)

    def _without_limit(self, domain: str, message: str, outlook: Outlook) -> Refusal:
        rules = self._domains.get(domain)
        error_format, error_details = ("", "") if rules is None else (rules.error_format, rules.error_details)
        if self._silent and not error_format:
            return _SILENCE
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
        which: int,
        never: bool,
        entries: tuple[Entry, ...],
        used: int,
        end: int,
        reset: int,
    ) -> _Written:
        """Write the refusal by limit number `which` of a rule: `used` of it is used, and it resets at `end`, in `reset` seconds."""
        policy = self._policy
        soon = policy.retry_within
        outlook = Outlook.NEVER if never else Outlook.SOON if reset <= soon else Outlook.LATER
        key = (rule, which, outlook)
        wording = self._wordings.get(key)
        if wording is None:
            minimal = policy.minimal(rule.error_details)
            wording = Wording(rule, which, outlook, _dialect(policy, rule.error_format), minimal=minimal)
            self._wordings.put(key, wording)
        headers: list[Header] = []
        if "x-ratelimit" in policy.refusal_headers:
            if not policy.minimal(rule.error_details):
                headers.append(Header("x-ratelimit-limit", limit_text(rule.limits, rule.limits[which])))
            headers.append(Header("x-ratelimit-remaining", "0"))
            headers.append(Header("x-ratelimit-reset", str(reset)))
        headers += _fixed_headers(policy, outlook, _dialect(policy, rule.error_format))
        latest = _UNBOUNDED
        if never or "retry-after" not in policy.refusal_headers:
            latest = 0
        elif outlook is Outlook.SOON:  # clients ignore what is longer
            latest = soon
        return _Written(tuple(headers), wording.body(entries, used, end, reset), latest)


def _dialect(policy: Policy, error_format: str) -> Dialect | None:
    return DIALECTS.get(error_format or policy.error_format)


def _fixed_headers(policy: Policy, outlook: Outlook, dialect: Dialect | None) -> list[Header]:
    """The headers that do not depend on what refused."""
    wanted = policy.refusal_headers
    headers = []
    if "x-should-retry" in wanted and outlook in (Outlook.LATER, Outlook.NEVER):
        headers.append(Header("x-should-retry", "false"))
    if "content-type" in wanted and dialect is not None:
        headers.append(Header("content-type", dialect.content_type))
    if "x-envoy-ratelimited" in wanted:
        headers.append(Header("x-envoy-ratelimited", "true"))
    return headers


def _weight_of_written(key: _Told, written: _Written) -> int:
    return written.weight + sum([200 + len(name) + len(value) for name, value in key[3]])


def _weight_of_denial(key: _Denial, refusal: Refusal) -> int:
    return 1_000 + len(key[0]) + 2 * len(key[1]) + len(refusal.body)


def _refusing(plan: Plan, told: Sequence[StatusValues], counted: Sequence[TallyValues | None]) -> int:
    """Return the place of the descriptor that a refusal is about.

    Of the descriptors that refuse, it is the one that takes longest to reset (of two that reset together, the one of the longer
    unit, as among the windows of one rule); but of quota rules, which refuse only all together, the one that resets first.
    """
    waits = []
    for place, (code, _, _, _) in enumerate(told):
        if code is OVER_LIMIT:
            values = counted[place]
            assert values is not None
            which, never = _which(plan.costs[place], values)
            limit, _, end, _, _, _, _ = values[-1][which]
            waits.append((math.inf if never else end - plan.now, length(limit.window), place))
    strict = [wait for wait in waits if not plan.items[wait[-1]].quota]
    if strict:
        _, _, place = max(strict, key=lambda wait: wait[:2])
    else:
        _, _, place = min(waits, key=lambda wait: wait[0])
    return place


def _which(cost: int, values: TallyValues) -> tuple[int, bool]:
    """Return the place of the limit that a refusal is about in its rule, and whether it never has room for this request.

    That is the first one that never has room, or else the one that the status shows.
    """
    _, rule, shown, _, _, _, _, _, windows = values
    which = 0
    for place, (limit, _, _, _, _, over, _) in enumerate(windows):
        if over and (limit.amount == 0 or (cost > limit.amount and not rule.budget)):
            return place, True
        if limit is shown:
            which = place
    return which, False
