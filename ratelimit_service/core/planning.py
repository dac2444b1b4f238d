"""What a request asks of the store, and what is needed to decide on it afterwards; planner.py makes plans."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from .bounds import DEFAULT_BOUNDS, RequestBounds
from .model import Entry, Hit, Limit, Request, Rule, StatKey
from .text import excerpt


class FailureMode(enum.Enum):
    """What a request is answered with where its counters cannot be reached: an error, on which the gateway's own failure
    mode decides; OK; or OVER_LIMIT."""

    ERROR = "error"
    ALLOW = "allow"
    DENY = "deny"


FULL, MINIMAL = "full", "minimal"
"""How much a refusal says: also what was used, the limit and who it was for, or only the limit's name and its reset."""

_LONGEST_SHOWN, _MOST_SHOWN = 200, 20
"""Bytes of a text, and entries of a descriptor, that people are shown."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for all rules: the settings that change an answer."""

    near_limit_ratio: float = 0.8
    shadow_mode: bool = False
    quota_mode: bool = False
    stop_when_over: bool = False
    """STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: a refused request is counted only where it is over the limit."""
    key_prefix: str = ""
    limit_header: str = ""
    remaining_header: str = ""
    reset_header: str = ""
    """The names of the three headers, lower-cased or not, as set; empty where they are off."""
    dynamic_metadata: bool = False
    refusal_headers: frozenset[str] = frozenset()
    """Which headers a refused caller gets (answers/refusal.py)."""
    error_format: str = ""
    """The dialect of a refusal's body (answers/dialects) where the rules do not name one; empty for no body."""
    error_details: str = FULL
    """How much a refusal says where the rules do not say that: FULL or MINIMAL."""
    retry_within: int = 60
    """How many seconds a limit may take to reset for its refusal to ask for a retry."""
    ietf_fields: bool = False
    """Whether answers carry RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11)."""
    bounds: RequestBounds = DEFAULT_BOUNDS
    """How much a request may ask for."""
    shows_limits: bool = field(init=False)
    """Whether answers carry any headers with limits, refusals or not."""

    def __post_init__(self) -> None:
        shown = self.limit_header or self.remaining_header or self.reset_header or self.ietf_fields
        object.__setattr__(self, "shows_limits", bool(shown))

    failure_mode: FailureMode = FailureMode.ERROR
    """What a request is answered with where its counters cannot be reached."""

    def minimal(self, error_details: str) -> bool:
        """Whether a refusal names no more than the limit and its reset; `error_details` is what the rules say of that."""
        return (error_details or self.error_details) == MINIMAL


Charge = tuple[Limit, int, int, int, int]
"""One window of one limit that a descriptor counts in: the limit, its amount, when the window ends (seconds since 1970), the
place of its counter among the plan's hits, and how much may be used before the use is near the limit."""


class Item:
    """One descriptor of a planned request, whatever it costs. Without `charges` nothing is counted for it.

    Requests that are alike share theirs, so an Observer may keep in `memo` what it has looked up for it; nobody else
    reads that, and items do not outlive the rules they are made by.
    """

    __slots__ = ("charges", "denied", "memo", "quota", "replaced", "rule", "stat")

    def __init__(
        self,
        rule: Rule | None = None,
        stat: StatKey | None = None,
        charges: tuple[Charge, ...] = (),
        *,
        quota: bool = False,
        denied: bool = False,
        replaced: bool = False,
    ) -> None:
        self.rule = rule
        self.stat = stat
        self.charges = charges
        self.quota = quota
        self.denied = denied
        """It meets no rule, and its domain refuses that."""
        self.replaced = replaced
        """The rule that it meets is replaced by that of another descriptor."""
        self.memo: Any = None


class Notes(NamedTuple):
    """What the dynamic metadata of an answer is to say beside what was asked."""

    explain: bool = False
    """Whether the answer is to be explained (answers/explanation.py)."""
    domains: tuple[str, ...] = ()
    """Some of the domains that there are, where that of the request is not among them and the answer is explained."""
    missing_keys: tuple[str, ...] = ()
    """The keys of `required_keys` that no descriptor has, where the answer is explained."""


class Plan(NamedTuple):
    """What a request asks of the store, and what is needed to decide on it afterwards.

    `costs` has for each item its share of the request's hits, below 0 for a refund. What is shared with other plans, or
    may be, is not to be changed: that is all but the plan itself.
    """

    request: Request
    items: Sequence[Item]
    costs: Sequence[int]
    hits: Sequence[Hit]
    now: int
    known_domain: bool = True
    denied: str = ""
    """Why the request is refused whatever the counters hold; empty where it is not."""
    unpriced: Sequence[int] = ()
    """The places of the items whose rule is a budget, and which did not say what they cost."""
    notes: Notes | None = None
    """What the dynamic metadata of the answer has; None where the answer has none."""


@lru_cache(maxsize=4096)
def near_limit(amount: int, ratio: float) -> int:
    """How much may be used before the use is near the limit: `amount` × `ratio`, rounded down.

    In single precision, as upstream reckons, so that both put the line at the same hit.
    """
    return int(_single(_single(amount) * _single(ratio)))


def _single(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


def described(entries: Sequence[Entry]) -> str:
    """A descriptor's entries as people may see them: `team=dba,model=gpt-x`."""
    shown = [
        f"{excerpt(key, _LONGEST_SHOWN)}={excerpt(value, _LONGEST_SHOWN)}"
        for key, value in entries[:_MOST_SHOWN]
    ]
    return ",".join(shown)
