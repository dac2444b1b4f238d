"""The nouns of rate limiting, as Envoy's API names them.

What a request carries is a NamedTuple (made for every call), what a rule says is a frozen dataclass (made once, at load). What a
request has many of, or few look at, is handed on as a plain tuple of the same values.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, NamedTuple

from .record import record

UINT32_MAX = 2**32 - 1
"""The largest number that the protocol can carry in a status; larger ones saturate on the wire."""

COUNTER_MAX = 2**53 - 1
"""Where hits and counters saturate: the largest integer that a Lua number holds exactly."""


new: Final = tuple.__new__
"""`new(Hit, (key, 1, 60, 0, 0))` is a Hit, made in half the time that calling the class takes: for what every call needs."""


class Unit(enum.IntEnum):
    """The unit of a window, with the numbers of `RateLimitResponse.RateLimit.Unit`."""

    UNKNOWN = 0
    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7

    __hash__ = int.__hash__  # a window is looked up for every bucket; that of `enum` is written in Python


class Code(enum.IntEnum):
    """The verdict on a descriptor or a request, with the numbers of `RateLimitResponse.Code`."""

    OK = 1
    OVER_LIMIT = 2


# By name, because Python 3.11 looks members of an enum up slowly, and these are in the way of every request.
OK, OVER_LIMIT = Code.OK, Code.OVER_LIMIT


class Calendar(NamedTuple):
    """The calendar that a window follows: an IANA time zone, and where its weeks, months and years begin.

    `weekday` is 0 for Monday to 6; `day` of the month (clamped to its length) is for months and years; `month` for years.
    """

    zone: str = "UTC"
    weekday: int = 0
    day: int = 1
    month: int = 1


class Window(NamedTuple):
    """How long a limit counts before it begins anew: `multiplier` × `unit`.

    Without a calendar these are upstream's: blocks of a fixed number of seconds since 1970 (windows.py).
    """

    unit: Unit
    multiplier: int = 1
    calendar: Calendar | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """So much in each window. `name` is printable, and may have letters beyond ASCII (text.header_text is for headers)."""

    amount: int
    window: Window
    name: str = ""


class StatKey(NamedTuple):
    """What the statistics of a limit are kept under: the domain and the matched `key` or `key_value` of each level."""

    domain: str
    levels: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.domain, *self.levels))


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What the configuration says about the descriptors that end at one node of the tree.

    `limits` is empty where the rule is unlimited; with several, all must have room. `path` is where the rule stands (domain and levels), as upstream's
    statistics and /rlconfig name it; `source` is its file and line.
    """

    path: StatKey
    limits: tuple[Limit, ...] = ()
    unlimited: bool = False
    name: str = ""
    replaces: frozenset[str] = frozenset()
    shadow: bool = False
    quota: bool = False
    detailed_metric: bool = False
    metadata: Mapping[str, Any] | None = None
    budget: bool = False
    """Its limits are budgets of tokens: what is used up is refused, and the request that crosses the line succeeds."""
    count_refused: bool = True
    """Whether a request that any rule refuses consumes something from this one."""
    warn_at: tuple[float, ...] = ()
    """Shares of a limit whose crossing is told once in each window, ascending: 0.8 is 80 %."""
    track: bool = False
    """Whether the use of each bucket is shown as gauges."""
    denial_message: str = ""
    """What a refused caller is told, with the placeholders of answers/wording.py; empty for the usual sentences."""
    error_format: str = ""
    """The dialect of a refusal's body (answers/dialects), the domain's where the rule has none; empty for REFUSAL_BODY."""
    error_details: str = ""
    """How much a refusal says (planning.FULL, MINIMAL), the domain's where the rule does not say; empty for REFUSAL_DETAILS."""
    quiet: bool = False
    """Whether a status carries its limit only where it is OVER_LIMIT (`limit_headers: on_refusal`)."""
    source: str = ""
    watched: bool = field(init=False)
    """Whether anybody is told of its use: `warn_at` or `track`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "watched", bool(self.warn_at or self.track))


@dataclass(frozen=True, slots=True, eq=False)
class DescriptorRule:
    """One descriptor of a configuration file, with those nested in it, in the order of the file."""

    key: bytes
    value: bytes = b""
    rule: Rule | None = None
    children: tuple[DescriptorRule, ...] = ()
    share_threshold: bool = False
    value_to_metric: bool = False
    source: str = ""

    @property
    def composite(self) -> bytes:
        """The name that siblings are told apart by, as upstream joins it: `key`, or `key_value`."""
        return self.key + b"_" + self.value if self.value else self.key


@dataclass(frozen=True, slots=True, eq=False)
class DomainRules:
    """Everything that the configuration says about one domain."""

    name: str
    descriptors: tuple[DescriptorRule, ...] = ()
    deny_unmatched: bool = False
    """Whether a descriptor that meets no rule is refused."""
    required_keys: tuple[bytes, ...] = ()
    """A request is refused unless each of these keys is in one of its descriptors."""
    budgets: bool = False
    """Whether a limit that a request brings with it is a budget even where it meets no rule (BUDGET_DOMAINS)."""
    zone: str = ""
    """The time zone for calendar windows that do not say one; empty where the domain does not."""
    error_format: str = ""
    error_details: str = ""
    """How a refusal that no limit gives is written, as in Rule."""
    source: str = ""


class Entry(NamedTuple):
    """One key and value of a descriptor, as they came: any bytes."""

    key: bytes
    value: bytes


class Override(NamedTuple):
    """A limit that the request brings with it, in place of the configured one."""

    amount: int
    unit: int
    multiplier: int = 1


class Descriptor(NamedTuple):
    """What is to be limited. `hits` is None where the descriptor does not say, and 0 for a check that counts nothing."""

    entries: tuple[Entry, ...]
    hits: int | None = None
    override: Override | None = None
    negative: bool = False


class Request(NamedTuple):
    """One call of ShouldRateLimit. `hits` is for descriptors without their own; 0 is unset, and means 1.

    Requests with the same `key` are the same but for their numbers of hits; without one nothing is known of that, and so
    it is for those whose answer is to be explained.
    """

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits: int = 0
    key: bytes = b""
    explain: bool = False


class Gate:
    """How a hit takes part in the decision whether its request is counted at all: flags that are added up.

    A request none of whose hits yields or holds is counted in full, whatever its verdict. Plain integers, because every hit
    of every request has them, and the flags of `enum` are many times slower.
    """

    NONE: Final = 0
    REFUSES: Final = 1
    """Where this hit would go over its limit, the request counts as refused."""
    YIELDS: Final = 2
    """This hit is not counted where the request is refused by another of its hits, and itself has room."""
    HOLDS: Final = 4
    """This hit is not counted where the request is refused, by whichever of its hits."""
    BUDGET: Final = 8
    """This hit goes over where the limit is used up already, not where it would be by this hit."""


HELD_BACK: Final = Gate.YIELDS | Gate.HOLDS
"""The gates for which a store must look at the whole group first."""


@record
class Hit:
    """What one request asks of one counter: a charge (`amount` > 0), a check (0) or a refund (< 0).

    A refund never takes a counter below 0. `ttl` (seconds, at least 1) is set when the counter is created, or has none.
    `limit` matters only with a `gate`.
    """

    key: str
    amount: int
    _: KW_ONLY
    ttl: int
    limit: int = 0
    gate: int = 0


class Header(NamedTuple):
    """A response header."""

    name: str
    value: str


class Status(NamedTuple):
    """The answer to one descriptor; `reset` is whole seconds.

    `reset` is at least 1 where a limit decided, and 0 where nothing limits the descriptor. `limit` is None in both cases
    where the rule shows it only in a refusal (`Rule.quiet`).
    """

    code: Code
    limit: Limit | None = None
    remaining: int = 0
    reset: int = 0


OK_STATUS = Status(Code.OK)
UNLIMITED_STATUS = Status(Code.OK, remaining=UINT32_MAX)


class Use(NamedTuple):
    """What became of one window of one limit: what its counter (`key`) held before and after, and when it ends.

    `over` is whether this window has no room, be it that it refuses or, on trial, would. Beyond `near` the use is near
    the limit.
    """

    limit: Limit
    key: str
    end: int
    before: int
    after: int
    over: bool
    near: int


class Tally(NamedTuple):
    """What one limited descriptor of a decided request adds to the statistics, by the window that its status tells of."""

    stat: StatKey
    rule: Rule
    limit: Limit
    over: bool
    within_limit: int = 0
    near_limit: int = 0
    over_limit: int = 0
    shadow_mode: int = 0
    windows: Sequence[UseValues] = ()

    @property
    def uses(self) -> list[Use]:
        """Every window of it, in the order of the rule."""
        return list(map(Use._make, self.windows))


# The values of these nouns as plain tuples, which are made in a quarter of the time and taken apart in a third.
StatusValues = tuple[Code, Limit | None, int, int]
UseValues = tuple[Limit, str, int, int, int, bool, int]
TallyValues = tuple[StatKey, Rule, Limit, bool, int, int, int, int, Sequence[UseValues]]


class Decision(NamedTuple):
    """The answer to a request: one status for each of its descriptors, in their order."""

    code: Code
    told: Sequence[StatusValues]
    counted: Sequence[TallyValues | None]
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    """What a refused caller reads."""
    dynamic_metadata: Mapping[str, Any] | None = None
    shadowed: bool = False
    """Global shadow mode turned a refusal into this OK."""

    @property
    def statuses(self) -> list[Status]:
        """What each descriptor is told."""
        return list(map(Status._make, self.told))

    @property
    def tallies(self) -> list[Tally | None]:
        """What each descriptor adds to the statistics; None where nothing limits it."""
        return [tally and Tally._make(tally) for tally in self.counted]
