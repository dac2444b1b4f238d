"""The JSON that the API returns for explanations, replicas, refusals and series; response_types.py has the
rest.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from .response_types import Amendment, Budget
from .schema import Doc

Verdict = Literal["ok", "over", "held", "shadowed", "blocked", "denied", "unlimited", "unmatched", "unknown"]


class Considered(TypedDict):
    """A rule that was considered for a descriptor."""

    rule: Annotated[str, Doc("Its path.", "token-budgets.team_dba")]
    source: Annotated[str | None, Doc("Its file and line.", "limits.yaml:4")]
    wins: Annotated[bool, Doc("Whether it limits the descriptor.", True)]
    reason: Annotated[str, Doc("Why it does, or does not.")]


class Possible(TypedDict):
    """A rule that could apply to a descriptor with more entries."""

    rule: Annotated[str, Doc("Its path.", "token-budgets.team_dba.model")]
    source: Annotated[str | None, Doc("Its file and line.", "limits.yaml:9")]
    missing: Annotated[
        list[str], Doc("The keys that the descriptor lacks, in the order of the rule.", ["model"])
    ]
    reason: Annotated[str, Doc("The same, as a sentence.", "it needs an entry model as well")]


class AmendmentHere(Amendment):
    """An amendment that matches a descriptor."""

    holds: Annotated[bool, Doc("Whether it changes a limit of the descriptor now.", True)]
    why: Annotated[str, Doc("Why it does, or does not.")]


class AnswerLimit(TypedDict):
    """The window that decides the answer."""

    window: Annotated[str, Doc("Its name.", "hour")]
    limit: Annotated[int | None, Doc("The limit in force.", 6_000)]
    remaining: Annotated[int | None, Doc("The remaining amount after the request.", 1_789)]
    resets_at: Annotated[str | None, Doc("When it ends.", format="date-time")]


class Explanation(TypedDict):
    """The answer that a descriptor would get now, and the reasons."""

    domain: Annotated[str, Doc("Its domain.", "token-budgets")]
    descriptor: Annotated[str, Doc("The descriptor.", "team=dba")]
    entries: Annotated[list[list[str]], Doc("Keys and values for display.", [["team", "dba"]])]
    verdict: Annotated[
        Verdict,
        Doc(
            "`held`: requests in flight hold the rest; `shadowed`: over, and let through; "
            "`denied`: by `unmatched: deny` or `required_keys`; `unmatched`: no rule; "
            "`unknown`: no such domain."
        ),
    ]
    code: Annotated[Literal["OK", "OVER_LIMIT"], Doc("The code of the answer.")]
    reason: Annotated[str, Doc("The verdict as a sentence.", "there is room in every window")]
    message: Annotated[str | None, Doc("The message of the refusal.")]
    limit: Annotated[AnswerLimit | None, Doc("The window that decides; null: none.")]
    rule: Annotated[str | None, Doc("The path of the rule; null: none.", "token-budgets.team_dba")]
    source: Annotated[str | None, Doc("Its file and line.", "limits.yaml:4")]
    considered: Annotated[list[Considered], Doc("The rule that limits it, and similar rules that do not.")]
    considered_left_out: Annotated[int, Doc("The number of considered rules that are not listed.", 0)]
    possible: Annotated[list[Possible], Doc("Rules that could apply to a descriptor with more entries.")]
    possible_more: Annotated[bool, Doc("Whether there are more of these.", False)]
    amendments: Annotated[list[AmendmentHere], Doc("Amendments that match it.")]
    budget: Annotated[Budget | None, Doc("Its bucket; null: no rule limits it.")]


class Replica(TypedDict):
    """A replica that counts in the same store."""

    id: Annotated[str, Doc("Its id, which begins with its host.", "ratelimit-0-5f3a1c")]
    this: Annotated[bool, Doc("Whether it is the replica that answers.", True)]
    version: Annotated[str, Doc("The version of the service.", "0.2.0")]
    generation: Annotated[int | None, Doc("The generation of its rules; null: it has none yet.", 3)]
    hash: Annotated[str | None, Doc("The hash of its rules.")]
    amendments_version: Annotated[int, Doc("The version of its amendments.", 12)]
    behind_seconds: Annotated[
        float, Doc("For how long a later generation of rules has existed; 0: it has the latest.", 0.0)
    ]
    seen_at: Annotated[str, Doc("When it was last seen.", "2026-11-28T10:00:00Z", format="date-time")]


class Replicas(TypedDict):
    """All replicas."""

    replicas: list[Replica]
    in_step: Annotated[bool, Doc("Whether all have the rules and the amendments of this one.", True)]


class LedgerEntry(TypedDict):
    """The entry for an hour or a day."""

    start: Annotated[str, Doc("When the hour or day begins.", "2026-11-21T01:00:00Z", format="date-time")]
    charged: Annotated[int, Doc("The tokens that were charged.", 4_211)]
    refunded: Annotated[int, Doc("The tokens that refunds gave back.", 200)]
    refused: Annotated[int, Doc("The requests that were refused.", 3)]
    per_million: Annotated[
        str | None, Doc("The price of a million tokens at that time, as a decimal; null: none.", "2.50")
    ]
    amount: Annotated[
        str | None,
        Doc(
            "The price of `charged` minus `refunded`, as an exact decimal; null: none.",
            "0.0100275",
        ),
    ]


class Book(TypedDict):
    """Entries of the ledger of one bucket."""

    bucket: Annotated[str, Doc("The beginning of its keys in the store.", "{token-budgets|team=dba}")]
    entries: Annotated[
        list[list[str]],
        Doc("The keys and values of its descriptor; `\\xFF` is a byte that is not text.", [["team", "dba"]]),
    ]
    by: Annotated[Literal["hour", "day"], Doc("The period of an entry.")]
    currency: Annotated[str | None, Doc("The currency of its amounts; null: it has no price.", "USD")]
    spent: Annotated[list[LedgerEntry], Doc("The entries, the oldest first.")]


class UsageOf(TypedDict):
    """A page of ledger entries."""

    domain: Annotated[str, Doc("The domain.", "token-budgets")]
    books: Annotated[
        list[Book],
        Doc(
            "In no order; a page may have none although more pages follow. An entry can be on several pages, "
            "with 0 for the numbers that are on others: take the largest of each number, "
            "and compute `amount` from these."
        ),
    ]
    model_key: Annotated[
        str, Doc("The key of the entry with the model, by which `PRICES_FILE` has prices.", "model")
    ]
    next_cursor: Annotated[str | None, Doc("The cursor of the next page; null at the end.")]


class Refusal(TypedDict):
    """A request that was refused."""

    id: Annotated[int, Doc("Its id, which grows with time.", 1_795_249_200_001_017)]
    at: Annotated[str, Doc("When it was refused.", "2026-11-28T10:00:00Z", format="date-time")]
    domain: Annotated[str, Doc("Its domain.", "token-budgets")]
    descriptor: Annotated[
        str | None, Doc("The descriptor that is over its limit; null: it is cut.", "team=dba")
    ]
    entries: Annotated[
        list[list[str]], Doc("Keys and values for display, cut where they are long.", [["team", "dba"]])
    ]
    reason: Annotated[
        Literal["over_limit", "blocked", "denied"], Doc("The reason; `denied`: the domain refuses it.")
    ]
    message: Annotated[str | None, Doc("Why the domain refuses it; null: another reason.")]
    rule: Annotated[str | None, Doc("The path of the rule.", "token-budgets.team_dba")]
    window: Annotated[str | None, Doc("The window that is over its limit.", "hour")]
    name: Annotated[str | None, Doc("The name of its limit.")]
    limit: Annotated[int | None, Doc("The limit in force.", 5_000)]
    used: Annotated[int | None, Doc("The use.", 5_012)]
    hits: Annotated[int, Doc("The hits of the request; 0: a check.", 0)]
    resets_at: Annotated[str | None, Doc("When the window ends.", format="date-time")]


class Refusals(TypedDict):
    """The last refusals, the latest first."""

    refusals: list[Refusal]
    last: Annotated[int, Doc("The largest id so far; `since` of the next request.", 1_795_249_200_001_017)]


class Point(TypedDict):
    """The tokens that were charged in one step."""

    at: Annotated[str, Doc("The end of the step.", "2026-11-28T10:00:00Z", format="date-time")]
    tokens: Annotated[int, Doc("Tokens, or requests.", 120)]


class Series(TypedDict):
    """The tokens that were charged to a bucket over time."""

    domain: Annotated[str, Doc("Its domain.", "token-budgets")]
    descriptor: Annotated[str, Doc("The descriptor.", "team=dba")]
    step_seconds: Annotated[int, Doc("The length of a step.", 2)]
    points: Annotated[
        list[Point], Doc("The oldest first, from the first request for the series on; at most ten minutes.")
    ]
