"""The JSON that callers of the API send: a NamedTuple for each query and each body."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from ..core.amendments.model import LONGEST_NAME, LONGEST_REASON, MOST_EDITS, MOST_WINDOWS
from ..core.amendments.target import MOST_TEXT
from ..core.model import COUNTER_MAX
from .response_types import State
from .schema import Doc

MOST_LISTED = 500
"""Items of one page of a list."""

_LONGEST_DOMAIN = 1_024
_LONGEST_CURSOR = 4_096

_DOMAIN = Doc("The domain.", "token-budgets", shortest=1, longest=_LONGEST_DOMAIN)
_DESCRIPTOR = Doc(
    "The descriptor, as `key=value,key=value`. In a value, a backslash escapes `*`, a comma and a backslash, "
    "and `\\xFF` is the byte FF.",
    "team=dba",
    shortest=1,
    longest=MOST_TEXT,
)
_TARGET = Doc(
    "A descriptor, a pattern of descriptors such as `user=premium_*`, or `*` for the whole domain "
    "(docs/amendments.md).",
    "team=dba",
    shortest=1,
    longest=MOST_TEXT,
)
_WINDOW = Doc(
    "The window that it changes, as in the counter's key: `hour`, `15minute`; null: every window.",
    "hour",
    longest=40,
)
_UNTIL = Doc("When it ends, in RFC 3339; null: when it is removed.", "2026-12-01T00:00:00Z", longest=40)
_REASON = Doc(
    "The reason, for the audit; printable.", "launch of the new search", shortest=1, longest=LONGEST_REASON
)
_AUTHOR = Doc(
    "The author of the change, for the audit; printable. It is not verified.",
    "ana",
    shortest=1,
    longest=LONGEST_NAME,
)
_DRY_RUN = Doc("Whether to only preview the change.", False)
_CONFIRMATION = Doc(
    "The confirmation of the preview: required for a pattern and for a whole domain. With one, "
    "a change is refused if it would replace something other than the preview showed.",
    longest=400,
)
_CURSOR = Doc("`next_cursor` of the previous page; empty: the first page.", longest=_LONGEST_CURSOR)
_LIMIT = Doc("The maximum number of items on the page.", 50, minimum=1, maximum=MOST_LISTED)


class Nothing(NamedTuple):
    """No parameters."""


class PageOfBudgets(NamedTuple):
    """Which budgets to list, in which order."""

    domain: Annotated[
        str, Doc("Only budgets of this domain; empty: all domains.", longest=_LONGEST_DOMAIN)
    ] = ""
    key: Annotated[
        str,
        Doc(
            "Only budgets that have an entry with this key; `\\xFF` is the byte FF, `\\\\` a backslash.",
            longest=1_024,
        ),
    ] = ""
    prefix: Annotated[
        str,
        Doc("Only budgets with a value (of `key`, if that is given) that begins with this.", longest=1_024),
    ] = ""
    value: Annotated[
        str | None,
        Doc("Only budgets with exactly this value (of `key`, if that is given).", longest=1_024),
    ] = None
    min_used: Annotated[
        float,
        Doc("The smallest used share of the limit: 0.8 is 80 %.", 0.8, minimum=0, maximum=1_000_000),
    ] = 0.0
    state: Annotated[State | None, Doc("Only budgets in this state.")] = None
    sort: Annotated[
        Literal["-used", "used", "name", "reset"],
        Doc("`-used`: blocked budgets first, then the most used; `reset`: those that reset next first."),
    ] = "-used"
    limit: Annotated[int, _LIMIT] = 50
    cursor: Annotated[
        str, Doc("`next_cursor` of the previous page; empty: the first page.", longest=8_192)
    ] = ""


class BucketBody(NamedTuple):
    """A bucket by its descriptor."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _DESCRIPTOR]


class PageOfUsage(NamedTuple):
    """Which entries of ledgers to list."""

    domain: Annotated[str, _DOMAIN]
    since: Annotated[
        str,
        Doc(
            "Only entries that begin then or later, in RFC 3339.",
            "2026-11-01T00:00:00Z",
            shortest=1,
            longest=40,
        ),
    ]
    until: Annotated[
        str,
        Doc(
            "Only entries that begin before then, in RFC 3339.",
            "2026-12-01T00:00:00Z",
            shortest=1,
            longest=40,
        ),
    ]
    cursor: Annotated[str, _CURSOR] = ""


class LaterRefusals(NamedTuple):
    """Which refusals to list."""

    since: Annotated[
        int,
        Doc(
            "Only refusals with a larger id than this: `last` of an earlier answer.",
            minimum=0,
            maximum=COUNTER_MAX,
        ),
    ] = 0
    limit: Annotated[int, _LIMIT] = 100


class ExplainBody(NamedTuple):
    """A request to explain."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _DESCRIPTOR]
    hits: Annotated[
        int, Doc("The `hits_addend` of the request; 0 is a check.", 0, minimum=0, maximum=COUNTER_MAX)
    ] = 0


class PageOfRules(NamedTuple):
    """Which rules to list."""

    domain: Annotated[str, Doc("Only rules of this domain; empty: all domains.", longest=_LONGEST_DOMAIN)] = (
        ""
    )
    limit: Annotated[int, _LIMIT] = 50
    cursor: Annotated[str, _CURSOR] = ""


class PageOfAmendments(NamedTuple):
    """Which amendments to list."""

    domain: Annotated[
        str, Doc("Only amendments of this domain; empty: all domains.", longest=_LONGEST_DOMAIN)
    ] = ""
    descriptor: Annotated[
        str,
        Doc(
            "Only amendments that match this descriptor, or have exactly this pattern. Requires `domain`.",
            longest=MOST_TEXT,
        ),
    ] = ""
    limit: Annotated[int, _LIMIT] = 50
    cursor: Annotated[str, _CURSOR] = ""


class PageOfAudit(NamedTuple):
    """Which lines of the audit to list."""

    limit: Annotated[
        int,
        Doc(
            "The maximum number of lines; a change is never split between pages.", 50, minimum=1, maximum=100
        ),
    ] = 50
    cursor: Annotated[str, _CURSOR] = ""


class OverrideBody(NamedTuple):
    """An override: the limit is `amount`, and 0 blocks."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _TARGET]
    amount: Annotated[int, Doc("The limit; 0 blocks.", 20_000, minimum=0, maximum=COUNTER_MAX)]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    window: Annotated[str | None, _WINDOW] = None
    until: Annotated[str | None, _UNTIL] = None
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


class TopUpBody(NamedTuple):
    """A top-up: `amount` is added to the limit."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _TARGET]
    amount: Annotated[int, Doc("The amount to add to the limit.", 5_000, minimum=1, maximum=COUNTER_MAX)]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    window: Annotated[str | None, _WINDOW] = None
    until: Annotated[str | None, _UNTIL] = None
    windows: Annotated[
        int | None,
        Doc(
            "The number of windows that it lasts, including the present one.",
            1,
            minimum=1,
            maximum=MOST_WINDOWS,
        ),
    ] = None
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


class ResetBody(NamedTuple):
    """A reset of counters to 0."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _TARGET]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    window: Annotated[str | None, _WINDOW] = None
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


class UnblockBody(NamedTuple):
    """The removal of the override for a target, whatever its amount."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _TARGET]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    window: Annotated[str | None, _WINDOW] = None
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


class RemoveBody(NamedTuple):
    """The removal of one amendment."""

    id: Annotated[str, Doc("Its id.", "o-4a7d1ed414474e4033ac29cc", shortest=1, longest=LONGEST_NAME)]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


class ChangeItem(NamedTuple):
    """One change of a limit among several."""

    verb: Annotated[
        Literal["override", "top-up", "unblock", "remove"],
        Doc("The kind of change; the other fields are those of the endpoint with this name."),
    ]
    domain: Annotated[str | None, _DOMAIN] = None
    descriptor: Annotated[str | None, _TARGET] = None
    amount: Annotated[
        int | None, Doc("The limit, or the amount to add to it.", 20_000, minimum=0, maximum=COUNTER_MAX)
    ] = None
    window: Annotated[str | None, _WINDOW] = None
    until: Annotated[str | None, _UNTIL] = None
    windows: Annotated[
        int | None,
        Doc("For a top-up: the number of windows that it lasts.", 1, minimum=1, maximum=MOST_WINDOWS),
    ] = None
    id: Annotated[str | None, Doc("For a removal: the id.", shortest=1, longest=LONGEST_NAME)] = None


class ChangesBody(NamedTuple):
    """Several changes that come into force together, or not at all."""

    changes: Annotated[list[ChangeItem], Doc("The changes, in their order.", shortest=1, longest=MOST_EDITS)]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


ChangeBody = OverrideBody | TopUpBody | ResetBody | UnblockBody | RemoveBody | ChangesBody
