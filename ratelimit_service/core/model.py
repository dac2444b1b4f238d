"""The nouns of rate limiting, as Envoy's API names them.

A request is made of NamedTuples, a rule of frozen dataclasses. Decisions have slots, hits (hit.py) and plans
as well, which are C fields if compiled. Statuses, uses and tallies are tuples, read by index constants.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .gates import HELD_BACK as HELD_BACK
from .hit import Hit as Hit
from .holds.rule import HoldRule
from .ledger.rule import LedgerRule, Price

if TYPE_CHECKING:
    from .amendments.model import Amendment
    from .answers.signals import Signals

UINT32_MAX = 2**32 - 1
"""The largest number that the protocol can carry in a status; larger ones saturate on the wire."""

MAX_CHARGE = 10**9
"""The largest charge of a budget without `max_charge`; gateways send at most this (docs/budgets.md)."""

COUNTER_MAX = 2**53 - 1
"""Where hits and counters saturate: the largest integer that a Lua number holds exactly."""


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

    __hash__ = int.__hash__  # windows are hashed for every bucket, and Enum.__hash__ is written in Python


class Code(enum.IntEnum):
    """The verdict on a descriptor or a request, with the numbers of `RateLimitResponse.Code`."""

    OK = 1
    OVER_LIMIT = 2


# Every request compares with these, and Python 3.11 looks up the members of an enum slowly.
OK, OVER_LIMIT = Code.OK, Code.OVER_LIMIT


class Calendar(NamedTuple):
    """The calendar that a window follows: an IANA time zone, and where weeks, months and years begin.

    `weekday` is 0 (Monday) to 6. `day`, of months and years, is at most the last. `month` is of years.
    """

    zone: str = "UTC"
    weekday: int = 0
    day: int = 1
    month: int = 1


class Window(NamedTuple):
    """The length of a window: `multiplier` × `unit`.

    Without a calendar, windows are upstream's: blocks of so many seconds since 1970 (windows/blocks.py).
    """

    unit: Unit
    multiplier: int = 1
    calendar: Calendar | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount for each window. `name` is printable; text.header_text makes it fit for a header."""

    amount: int
    window: Window
    name: str = ""


class StatKey(NamedTuple):
    """The name of a limit in the statistics: its domain, and the `key` or `key_value` of each level."""

    domain: str
    levels: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.domain, *self.levels))


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What the configuration says about the descriptors that end at one node of the tree.

    `limits` is empty for an unlimited rule; a request needs room in all of them. `path` is the domain and the
    levels of the rule, as upstream's statistics and /rlconfig name it. `source` is its file and line.
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
    """Whether its limits are token budgets: the request that crosses the limit still succeeds."""
    count_refused: bool = True
    """Whether a request that any rule refuses is counted by this rule."""
    warn_at: tuple[float, ...] = ()
    """Ascending shares of each limit (0.8 is 80 %), whose crossing is reported once in a window."""
    track: bool = False
    """Whether gauges show how much of each bucket is used."""
    denial_message: str = ""
    """The message of a refusal, with placeholders (answers/wording.py); empty for the default."""
    error_format: str = ""
    """The dialect of a refusal (answers/dialects), from the rule or its domain; empty for REFUSAL_BODY."""
    error_details: str = ""
    """planning.FULL or MINIMAL, from the rule or its domain; empty for REFUSAL_DETAILS."""
    limit_on_refusal_only: bool = False
    """Whether only an OVER_LIMIT status carries its limit (`limit_headers: on_refusal`)."""
    max_charge: int = COUNTER_MAX
    """The largest believable charge or refund; a larger one is an error of the caller."""
    hold: HoldRule | None = None
    """What a check sets aside; None for nothing."""
    signal: int = 0
    """The targets of the signal in answers: a sum of answers/signals.TARGETS."""
    notify: tuple[str, ...] | None = None
    """The names of the receivers of its events (EVENTS_WEBHOOKS); None for all receivers that select them."""
    low_at: float = 0.0
    """The used share from which a budget is low; 0 for NEAR_LIMIT_RATIO."""
    ledger: LedgerRule | None = None
    """How its charges are recorded; None for not at all."""
    price: Price | None = None
    """What its tokens cost, unless their model has a price (ledger/price.py); None for no price."""
    refuse_larger: bool = False
    """Whether a charge above `max_charge` counts nothing and is refused, instead of counting `max_charge`."""
    source: str = ""
    original: Rule | None = None
    """The configured rule that this one copies with other limits (amendments/amended_rules.py)."""
    watched: bool = field(init=False)
    """Whether its use is reported: by `warn_at` or `track`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "watched", bool(self.warn_at or self.track))


@dataclass(frozen=True, slots=True, eq=False)
class DescriptorRule:
    """One descriptor of a configuration file, with the descriptors nested in it, in the order of the file."""

    key: bytes
    value: bytes = b""
    rule: Rule | None = None
    children: tuple[DescriptorRule, ...] = ()
    share_threshold: bool = False
    value_to_metric: bool = False
    source: str = ""

    @property
    def composite(self) -> bytes:
        """The name that is unique among siblings, as upstream joins it: `key`, or `key_value`."""
        return self.key + b"_" + self.value if self.value else self.key


@dataclass(frozen=True, slots=True, eq=False)
class DomainRules:
    """Everything that the configuration says about one domain."""

    name: str
    descriptors: tuple[DescriptorRule, ...] = ()
    deny_unmatched: bool = False
    """Whether a descriptor that matches no rule is refused."""
    required_keys: tuple[bytes, ...] = ()
    """A request is refused unless each of these keys is in one of its descriptors."""
    budgets: bool = False
    """Whether the limit of a request is a budget even where no rule matches (BUDGET_DOMAINS)."""
    zone: str = ""
    """The default time zone of calendar windows; empty for UTC."""
    error_format: str = ""
    error_details: str = ""
    """As in Rule, for a refusal that is not due to a limit."""
    source: str = ""
    digest: str = ""
    """What all of it says, as a hash (rules/digest.py): equal on all replicas with the same rules."""
    limits: tuple[Amendment, ...] = ()
    """Limits as data (rules/data.py): overrides that rank below those of operators."""


class Entry(NamedTuple):
    """One key and value of a descriptor. Callers may send any bytes."""

    key: bytes
    value: bytes


class Override(NamedTuple):
    """A limit in the request, which replaces the configured one."""

    amount: int
    unit: int
    multiplier: int = 1


class Descriptor(NamedTuple):
    """A descriptor of a request. Its own `hits_addend` is None if absent, and 0 for a check."""

    entries: tuple[Entry, ...]
    hits_addend: int | None = None
    override: Override | None = None
    negative: bool = False


class Request(NamedTuple):
    """One call of ShouldRateLimit. Its `hits_addend` is that of descriptors without one; 0 means 1.

    Requests with the same `key` differ only in their hits_addends; nothing is known of those without a key,
    as with `explain`. A request that `repeats` stands for all with its bytes.
    """

    domain: str
    descriptors: tuple[Descriptor, ...]
    hits_addend: int = 0
    key: bytes = b""
    explain: bool = False
    returned: tuple[bytes | None, ...] = ()
    """What came back of each descriptor's check: an id, or empty for a marker (holds/entries.py)."""
    repeats: bool = False


class Header(NamedTuple):
    """A response header."""

    name: str
    value: str


class Status(NamedTuple):
    """The answer for one descriptor.

    `reset` is in whole seconds: at least 1 if a limit decided, 0 if nothing limits the descriptor. `limit` is
    None in that case, and if the rule shows its limit only in refusals (Rule.limit_on_refusal_only).
    """

    code: Code
    limit: Limit | None = None
    remaining: int = 0
    reset: int = 0


OK_STATUS = Status(Code.OK)
UNLIMITED_STATUS = Status(Code.OK, remaining=UINT32_MAX)


class Use(NamedTuple):
    """The use of one window: what its counter (`key`) held before and after the hit, and when it ends.

    `over`: the window has no room, even if shadow mode lets the request pass. It is near over `near`.
    """

    limit: Limit
    key: str
    end: int
    before: int
    after: int
    over: bool
    near: int


class Tally(NamedTuple):
    """What one limited descriptor adds to the statistics, for the window that its status shows."""

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
        """Return the use of every window of the rule, in the order of its limits."""
        return list(map(Use._make, self.windows))


# A decision makes these for each of its descriptors; a plain tuple takes a quarter of the time of an object.
# Only decision.py makes them. Others read them by the index constants below, or as the classes above.
StatusValues = tuple[Code, Limit | None, int, int]
STATUS_CODE: Final = 0
STATUS_LIMIT: Final = 1
STATUS_REMAINING: Final = 2
STATUS_RESET: Final = 3

UseValues = tuple[Limit, str, int, int, int, bool, int]
USE_LIMIT: Final = 0
USE_KEY: Final = 1
USE_END: Final = 2
USE_BEFORE: Final = 3
USE_AFTER: Final = 4
USE_OVER: Final = 5
USE_NEAR: Final = 6

TallyValues = tuple[StatKey, Rule, Limit, bool, int, int, int, int, Sequence[UseValues]]
TALLY_STAT: Final = 0
TALLY_RULE: Final = 1
TALLY_LIMIT: Final = 2
TALLY_OVER: Final = 3
TALLY_WITHIN_LIMIT: Final = 4
TALLY_NEAR_LIMIT: Final = 5
TALLY_OVER_LIMIT: Final = 6
TALLY_SHADOW_MODE: Final = 7
TALLY_USES: Final = 8


class Decision:
    """The answer to a request. `body` is of a refusal; `shadowed`: the global shadow mode made it an OK."""

    __slots__ = ("body", "code", "dynamic_metadata", "headers", "held", "hold", "in_flight", "shadowed",
                 "signals", "status_values", "tally_values")  # fmt: skip

    def __init__(
        self,
        code: Code,
        status_values: Sequence[StatusValues],
        tally_values: Sequence[TallyValues | None],
        headers: tuple[Header, ...] = (),
        body: bytes = b"",
        dynamic_metadata: Mapping[str, Any] | None = None,
        shadowed: bool = False,
        hold: str = "",
        in_flight: tuple[int, int, int] | None = None,
        signals: Signals | None = None,
        held: Sequence[int] = (),
    ) -> None:
        self.code = code
        self.status_values = status_values
        self.tally_values = tally_values
        """One for each descriptor, in their order; the tally is None if nothing limits the descriptor."""
        self.headers, self.body = headers, body
        self.dynamic_metadata = dynamic_metadata
        self.shadowed = shadowed
        self.hold = hold
        """The id of the holds of this check, for the dynamic metadata; empty for none."""
        self.in_flight = in_flight
        """The descriptor that holds refuse, how many tokens are held, and when to retry."""
        self.signals = signals
        """Only with `dynamic_metadata`, which may be empty."""
        self.held = held
        """The results of the hits on holds, in the order of Plan.holds; 0 where there was no hit."""

    @property
    def statuses(self) -> list[Status]:
        """Return `status_values` as objects."""
        return list(map(Status._make, self.status_values))

    @property
    def tallies(self) -> list[Tally | None]:
        """Return `tally_values` as objects."""
        return [tally and Tally._make(tally) for tally in self.tally_values]
