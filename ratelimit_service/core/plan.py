"""The plan of a request: what it asks of the store, and what deciding on it takes. planner.py makes plans."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .amendments.model import Amendment
from .bounds import DEFAULT_BOUNDS, RequestBounds
from .holds.entries import NO_ENTRIES, HoldEntries
from .holds.planning import PlannedHold
from .model import Entry, Hit, Limit, Request, Rule, StatKey
from .text import excerpt


class FailureMode(enum.Enum):
    """The answer to a request whose counters cannot be reached.

    An error leaves the decision to the gateway's own failure mode.
    """

    ERROR = "error"
    ALLOW = "allow"
    DENY = "deny"


FULL, MINIMAL = "full", "minimal"
"""What a refusal says. FULL adds the use, the amount and the descriptor to the limit's name and its reset."""

_LONGEST_SHOWN, _MOST_SHOWN = 200, 20
"""The bytes of a key or value, and the entries of a descriptor, that a text for people contains."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that change an answer, whatever the rules are."""

    near_limit_ratio: float = 0.8
    shadow_mode: bool = False
    quota_mode: bool = False
    stop_when_over: bool = False
    """STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: only the limits that refuse a request count it."""
    key_prefix: str = ""
    limit_header: str = ""
    remaining_header: str = ""
    reset_header: str = ""
    """The names of the three headers as they were set; empty for a header that is off."""
    dynamic_metadata: bool = False
    refusal_headers: frozenset[str] = frozenset()
    """The headers of a refusal (answers/refusal.py)."""
    error_format: str = ""
    """The default dialect of a refusal's body (answers/dialects); empty for no body."""
    error_details: str = FULL
    """The default of what a refusal says: FULL or MINIMAL."""
    retry_within: int = 60
    """A refusal asks for a retry if its limit resets within so many seconds."""
    ietf_fields: bool = False
    """Whether answers carry RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11)."""
    bounds: RequestBounds = DEFAULT_BOUNDS
    """How large a request may be."""
    hold_entries: HoldEntries = NO_ENTRIES
    """The entries by which gateways bring back the holds of a check."""
    shows_limits: bool = field(init=False)
    """Whether answers that are no refusals carry headers with limits."""

    def __post_init__(self) -> None:
        shown = self.limit_header or self.remaining_header or self.reset_header or self.ietf_fields
        object.__setattr__(self, "shows_limits", bool(shown))

    failure_mode: FailureMode = FailureMode.ERROR
    """The answer to a request whose counters cannot be reached."""

    def minimal(self, error_details: str) -> bool:
        """Return whether a refusal leaves out the use, by the `error_details` of the rules or the default."""
        return (error_details or self.error_details) == MINIMAL


class PlannedWindow:
    """One window of one limit that a descriptor counts in."""

    __slots__ = ("amount", "configured", "end", "hit", "limit", "near")

    def __init__(self, limit: Limit, amount: int, end: int, hit: int, near: int) -> None:
        self.limit = limit
        self.configured = limit.amount
        """The amount that an answer shows."""
        self.amount = amount
        """The amount of the limit; below 0 where an amendment blocks the window, and not even a check has
        room.
        """
        self.end = end
        """When the window ends, in seconds since 1970."""
        self.hit = hit
        """The index of its hit in the plan."""
        self.near = near
        """A use above this is near the limit."""


class PlannedDescriptor:
    """One descriptor of a planned request, whatever its hits_addend is. Without `windows`, it counts nothing.

    Requests for buckets of one rule share their planned descriptors, and a reload drops them. So an Observer
    may cache in `memo` what it has looked up for one; nothing else reads `memo`.
    """

    __slots__ = ("amendments", "blocked", "budget", "denied", "hides_limit", "memo", "quota", "replaced",
                 "rule", "shadow", "stat", "watched", "windows")  # fmt: skip

    def __init__(
        self,
        rule: Rule | None = None,
        stat: StatKey | None = None,
        windows: tuple[PlannedWindow, ...] = (),
        *,
        quota: bool = False,
        denied: bool = False,
        replaced: bool = False,
        blocked: bool = False,
        amendments: tuple[Amendment, ...] = (),
    ) -> None:
        self.rule = rule
        self.stat = stat
        self.windows = windows
        self.budget = rule is not None and rule.budget
        self.shadow = rule is not None and rule.shadow
        self.watched = rule is not None and rule.watched
        self.hides_limit = rule is not None and rule.limit_on_refusal_only
        """The fields of the rule that each decision needs, copied: they are found faster here."""
        self.quota = quota
        self.denied = denied
        """Whether it is refused without a limit: its domain refuses what no rule matches, or it is blocked.
        """
        self.blocked = blocked
        """Whether it is an amendment that refuses it."""
        self.amendments = amendments
        """What amends its limits."""
        self.replaced = replaced
        """Whether the rule of another descriptor replaces the rule that it matches."""
        self.memo: Any = None

    def counted_as(self, stat: StatKey) -> PlannedDescriptor:
        """Return the same with another name in the statistics."""
        return PlannedDescriptor(self.rule, stat, self.windows, quota=self.quota, amendments=self.amendments)


class AnswerExtras(NamedTuple):
    """What an answer contains beside the verdict and the limits."""

    explain: bool = False
    """Whether the metadata explains the answer (answers/explanation.py)."""
    domains: tuple[str, ...] = ()
    """Some known domains, for an explanation that the domain of the request is unknown."""
    signals: bool = False
    """Whether a rule of the request has `signal`."""
    missing_keys: tuple[str, ...] = ()
    """The `required_keys` that no descriptor has, for an explanation."""


class Plan:
    """What a request asks of the store, and what deciding on it takes.

    Plans may share everything but themselves, so nothing in a plan may change.
    """

    __slots__ = (
        "addends",
        "denial",
        "descriptors",
        "excess",
        "hits",
        "holds",
        "known_domain",
        "notes",
        "now",
        "request",
        "without_addend",
    )

    def __init__(
        self,
        request: Request,
        descriptors: Sequence[PlannedDescriptor],
        addends: Sequence[int],
        hits: Sequence[Hit],
        now: int,
        known_domain: bool = True,
        denial: str = "",
        without_addend: Sequence[int] = (),
        notes: AnswerExtras | None = None,
        excess: Sequence[int] = (),
        holds: Sequence[PlannedHold] = (),
    ) -> None:
        self.request = request
        self.descriptors = descriptors
        """In the order of the request."""
        self.addends = addends
        """The hits_addend of each descriptor: its own or the request's, negative for a refund."""
        self.hits = hits
        self.now = now
        self.known_domain = known_domain
        self.denial = denial
        """Why the rules refuse the request whatever the counters hold; empty if they do not."""
        self.without_addend = without_addend
        """The indexes of the descriptors whose rule is a budget and which came without a hits_addend."""
        self.notes = notes
        """What the answer contains beside the verdict and the limits; None for nothing."""
        self.excess = excess
        """The indexes of the descriptors whose hits_addend is above the max_charge of their rule."""
        self.holds = holds
        """What the request asks of holds."""

    def without_holds(self, hits: Sequence[Hit]) -> Plan:
        """Return the same with these hits, and without holds."""
        return Plan(
            self.request,
            self.descriptors,
            self.addends,
            hits,
            self.now,
            self.known_domain,
            self.denial,
            self.without_addend,
            self.notes,
            self.excess,
        )


def near_limit(amount: int, ratio: float) -> int:
    """Return the use above which a limit of `amount` is nearly used up: `amount` × `ratio`, rounded down.

    It is computed in single precision, as upstream does, so that both draw the line at the same hit.
    """
    return int(_single(_single(amount) * _single(ratio)))


def _single(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


def descriptor_text(entries: Sequence[Entry]) -> str:
    """Return the entries of a descriptor as text for people: `team=dba,model=gpt-x`."""
    shown = [
        f"{excerpt(key, _LONGEST_SHOWN)}={excerpt(value, _LONGEST_SHOWN)}"
        for key, value in entries[:_MOST_SHOWN]
    ]
    return ",".join(shown)
