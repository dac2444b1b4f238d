"""The JSON that callers of the API send: a NamedTuple for each query and each body."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from ..core.amendments.model import LONGEST_NAME, LONGEST_REASON, MOST_EDITS, MOST_WINDOWS
from ..core.amendments.target import MOST_TEXT
from ..core.model import COUNTER_MAX
from .schema import Doc
from .shapes import State

MOST_LISTED = 500
"""Items of one page of a list."""

_LONGEST_DOMAIN = 1_024
_LONGEST_CURSOR = 4_096

_DOMAIN = Doc("The domain.", "token-budgets", shortest=1, longest=_LONGEST_DOMAIN)
_DESCRIPTOR = Doc(
    "The descriptor, as `key=value,key=value`; `*`, a comma and a backslash in a value are escaped by a backslash, and "
    "`\\xFF` is the byte FF.",
    "team=dba",
    shortest=1,
    longest=MOST_TEXT,
)
_TARGET = Doc(
    "A descriptor, a pattern of descriptors such as `user=premium_*`, or `*` for the whole domain (docs/amendments.md).",
    "team=dba",
    shortest=1,
    longest=MOST_TEXT,
)
_WINDOW = Doc(
    "The only window that it is for, as in the counter's key: `hour`, `15minute`; null: every window.",
    "hour",
    longest=40,
)
_UNTIL = Doc("When it ends, in RFC 3339; null: when it is removed.", "2026-12-01T00:00:00Z", longest=40)
_REASON = Doc(
    "Why, for the audit; printable.", "launch of the new search", shortest=1, longest=LONGEST_REASON
)
_AUTHOR = Doc(
    "Who makes the change, for the audit; printable. It is what the caller says.",
    "ana",
    shortest=1,
    longest=LONGEST_NAME,
)
_DRY_RUN = Doc("Whether to preview the change only.", False)
_CONFIRMATION = Doc(
    "The confirmation of the preview: needed for a pattern and for a whole domain; elsewhere, it makes sure that the "
    "change replaces what the preview showed.",
    longest=400,
)
_CURSOR = Doc("Where the page begins: `next_cursor` of the page before.", longest=_LONGEST_CURSOR)
_LIMIT = Doc("The most items of the page.", 50, minimum=1, maximum=MOST_LISTED)


class Nothing(NamedTuple):
    """No parameters."""


class PageOfBudgets(NamedTuple):
    """Which budgets to list, in which order."""

    domain: Annotated[str, Doc("Only those of this domain; empty: of all.", longest=_LONGEST_DOMAIN)] = ""
    key: Annotated[
        str,
        Doc(
            "Only those that have an entry with this key; `\\xFF` is the byte FF, `\\\\` a backslash.",
            longest=1_024,
        ),
    ] = ""
    prefix: Annotated[
        str, Doc("Only those in which a value, that of `key` where it is given, begins so.", longest=1_024)
    ] = ""
    value: Annotated[
        str | None,
        Doc("Only those in which a value, that of `key` where it is given, is this one.", longest=1_024),
    ] = None
    min_used: Annotated[
        float,
        Doc("The smallest share of the limit that is used: 0.8 is 80 %.", 0.8, minimum=0, maximum=1_000_000),
    ] = 0.0
    state: Annotated[State | None, Doc("Only those in this state.")] = None
    sort: Annotated[
        Literal["-used", "used", "name", "reset"],
        Doc(
            "`-used`: the largest share used first, and blocked ones before all; `reset`: by the end of their windows."
        ),
    ] = "-used"
    limit: Annotated[int, _LIMIT] = 50
    cursor: Annotated[str, Doc("Where the page begins: `next_cursor` of the page before.", longest=8_192)] = (
        ""
    )


class BucketBody(NamedTuple):
    """A bucket by its descriptor."""

    domain: Annotated[str, _DOMAIN]
    descriptor: Annotated[str, _DESCRIPTOR]


class PageOfUsage(NamedTuple):
    """Which entries of ledgers to list."""

    domain: Annotated[str, _DOMAIN]
    since: Annotated[
        str,
        Doc("Only what began then or later, in RFC 3339.", "2026-11-01T00:00:00Z", shortest=1, longest=40),
    ]
    until: Annotated[
        str, Doc("Only what began before that, in RFC 3339.", "2026-12-01T00:00:00Z", shortest=1, longest=40)
    ]
    cursor: Annotated[str, _CURSOR] = ""


class LaterRefusals(NamedTuple):
    """Which refusals to list."""

    since: Annotated[
        int,
        Doc("Only those with a larger id: the `last` of an earlier answer.", minimum=0, maximum=COUNTER_MAX),
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

    domain: Annotated[str, Doc("Only those of this domain; empty: of all.", longest=_LONGEST_DOMAIN)] = ""
    limit: Annotated[int, _LIMIT] = 50
    cursor: Annotated[str, _CURSOR] = ""


class PageOfAmendments(NamedTuple):
    """Which amendments to list."""

    domain: Annotated[str, Doc("Only those in this domain; empty: in all.", longest=_LONGEST_DOMAIN)] = ""
    descriptor: Annotated[
        str,
        Doc(
            "Only those that are for this descriptor or, of a pattern, exactly for this pattern. Needs `domain`.",
            longest=MOST_TEXT,
        ),
    ] = ""
    limit: Annotated[int, _LIMIT] = 50
    cursor: Annotated[str, _CURSOR] = ""


class PageOfAudit(NamedTuple):
    """Which lines of the audit to list."""

    limit: Annotated[
        int, Doc("The most lines of the page; the rest of a change is added.", 50, minimum=1, maximum=100)
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
    amount: Annotated[int, Doc("What is added to the limit.", 5_000, minimum=1, maximum=COUNTER_MAX)]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    window: Annotated[str | None, _WINDOW] = None
    until: Annotated[str | None, _UNTIL] = None
    windows: Annotated[
        int | None,
        Doc("For how many windows it is, the present one included.", 1, minimum=1, maximum=MOST_WINDOWS),
    ] = None
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


class ResetBody(NamedTuple):
    """A reset: used becomes 0."""

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
        Doc("What it does; the other fields are those of the endpoint with this name."),
    ]
    domain: Annotated[str | None, _DOMAIN] = None
    descriptor: Annotated[str | None, _TARGET] = None
    amount: Annotated[
        int | None, Doc("The limit, or what is added to it.", 20_000, minimum=0, maximum=COUNTER_MAX)
    ] = None
    window: Annotated[str | None, _WINDOW] = None
    until: Annotated[str | None, _UNTIL] = None
    windows: Annotated[
        int | None, Doc("Of a top-up: for how many windows it is.", 1, minimum=1, maximum=MOST_WINDOWS)
    ] = None
    id: Annotated[str | None, Doc("Of a removal: the id.", shortest=1, longest=LONGEST_NAME)] = None


class ChangesBody(NamedTuple):
    """Several changes that come into force together, or not at all."""

    changes: Annotated[list[ChangeItem], Doc("The changes, in their order.", shortest=1, longest=MOST_EDITS)]
    reason: Annotated[str, _REASON]
    author: Annotated[str, _AUTHOR] = "api"
    dry_run: Annotated[bool, _DRY_RUN] = False
    confirmation: Annotated[str | None, _CONFIRMATION] = None


ChangeBody = OverrideBody | TopUpBody | ResetBody | UnblockBody | RemoveBody | ChangesBody
