"""The JSON that the API returns: a TypedDict for each answer, and for the objects in it.

With those of request_types.py, they are the source of the OpenAPI description and of the tables in
docs/api.md (schema.py).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from ..core.budgets.forecasting import Basis
from .schema import Doc

_NEXT = Doc("The cursor of the next page; null at the end.")

State = Literal["ok", "low", "over", "blocked"]
BudgetKind = Literal["budget", "requests"]


class StoreStatus(TypedDict):
    """The store of the counters."""

    type: Annotated[Literal["memory", "redis"], Doc("Where counters are kept.")]
    reachable: Annotated[bool, Doc("Whether the last health check reached it.", True)]
    circuit_open: Annotated[
        bool, Doc("Whether calls are answered without the store (docs/reliability.md).", False)
    ]
    journal_hits: Annotated[int, Doc("Hits that wait in memory until the store is back.", 0)]


class RulesStatus(TypedDict):
    """The rules in force."""

    generation: Annotated[int | None, Doc("Increases with each new set of rules; equal on all replicas.", 3)]
    hash: Annotated[str | None, Doc("Equal on replicas with the same rules.", "5c1f0a6be2d94c07")]
    loaded_at: Annotated[str | None, Doc("When they came into force.", format="date-time")]
    domains: Annotated[int, Doc("How many domains they have.", 2)]
    rules: Annotated[int, Doc("How many rules they have.", 14)]
    problems: Annotated[
        int, Doc("How many problems the last load had; with any, earlier rules are in force.", 0)
    ]


class AmendmentsStatus(TypedDict):
    """The amendments in force here."""

    version: Annotated[int, Doc("Their version in the store.", 12)]
    count: Annotated[int, Doc("How many there are.", 4)]
    age_seconds: Annotated[float, Doc("Seconds since they were last compared with the store.", 0.2)]
    unreadable: Annotated[
        int, Doc("How many cannot be read, because a later version of the service made them.", 0)
    ]


class Status(TypedDict):
    """The state of this replica, and the rights of the caller."""

    version: Annotated[str, Doc("The version of the service.", "0.2.0")]
    transport: Annotated[str, Doc("The gRPC server.", "native")]
    replica: Annotated[str | None, Doc("The id of this replica in /replicas.")]
    hostname: Annotated[str, Doc("The name of its host.", "ratelimit-0")]
    now: Annotated[str, Doc("The time here.", "2026-11-28T10:00:00Z", format="date-time")]
    started_at: Annotated[str, Doc("When the process started.", format="date-time")]
    healthy: Annotated[bool, Doc("Whether it is ready for calls.", True)]
    unhealthy: Annotated[list[str], Doc("The components that are not healthy.")]
    you: Annotated[
        Literal["local", "read", "admin"],
        Doc("The caller: `local` on loopback without a token, else by its token."),
    ]
    writes: Annotated[bool, Doc("Whether limits can be changed: ADMIN_TOKEN is set.", True)]
    store: StoreStatus
    rules: RulesStatus
    amendments: AmendmentsStatus


class RuleLimit(TypedDict):
    """One limit of a rule."""

    window: Annotated[str, Doc("Its window, as in the counter's key.", "hour")]
    limit: Annotated[int, Doc("Its amount.", 5_000)]
    name: Annotated[str | None, Doc("Its name.")]
    time_zone: Annotated[str | None, Doc("The time zone of its calendar; null: none.", "Europe/Berlin")]


class Rule(TypedDict):
    """A rule in force."""

    rule: Annotated[str, Doc("Its path, as in metrics and /rlconfig.", "token-budgets.team_dba")]
    domain: Annotated[str, Doc("Its domain.", "token-budgets")]
    name: Annotated[str | None, Doc("Its name.")]
    kind: Annotated[BudgetKind, Doc("Tokens, or requests.")]
    limits: list[RuleLimit]
    shadow: Annotated[bool, Doc("Whether it refuses nothing.", False)]
    quota: Annotated[bool, Doc("Whether it refuses only together with the other quotas.", False)]
    unlimited: Annotated[bool, Doc("Whether it has no limit.", False)]
    source: Annotated[str | None, Doc("Its file and line.", "limits.yaml:4")]


class DomainInForce(TypedDict):
    """A domain in force."""

    domain: Annotated[str, Doc("Its name.", "token-budgets")]
    rules: Annotated[int, Doc("How many rules it has.", 7)]
    limits_as_data: Annotated[int, Doc("How many limits as data it has.", 0)]
    unmatched: Annotated[
        Literal["allow", "deny"], Doc("Whether a descriptor without a rule is allowed or refused.")
    ]
    required_keys: Annotated[list[str], Doc("Keys that the descriptors of a request must have.")]


class RuleProblem(TypedDict):
    """A problem of the last load."""

    file: Annotated[str, Doc("The file.", "limits.yaml")]
    line: Annotated[int | None, Doc("The line.", 3)]
    path: Annotated[str | None, Doc("The path of the value in the file.", "descriptors[0].rate_limit.unit")]
    problem: Annotated[str, Doc("The mistake, and a correction.")]


class Rules(TypedDict):
    """The rules in force, and the problems of the last load."""

    generation: Annotated[int | None, Doc("Increases with each new set of rules; equal on all replicas.", 3)]
    hash: Annotated[str | None, Doc("Equal on replicas with the same rules.", "5c1f0a6be2d94c07")]
    loaded_at: Annotated[str | None, Doc("When they came into force.", format="date-time")]
    domains: Annotated[list[DomainInForce], Doc("The first thousand domains.")]
    problems: Annotated[list[RuleProblem], Doc("The first hundred problems of the last load.")]
    unpaired: Annotated[
        list[str],
        Doc(
            "The first hundred rules that this replica got checks and no charges for in the last hour, "
            "or the reverse."
        ),
    ]
    rules: Annotated[list[Rule], Doc("A page of the rules, in the order of the files.")]
    next_cursor: Annotated[str | None, _NEXT]


class ControlPlane(TypedDict):
    """A control plane, and its rules in force."""

    server: Annotated[str, Doc("Its name, or its address if it has no name.", "eg")]
    connected: Annotated[bool, Doc("Whether a call to it is open.", True)]
    since: Annotated[
        str | None, Doc("When `connected` last changed; null: at the start.", format="date-time")
    ]
    error: Annotated[str | None, Doc("Why it is not connected.", "UNAVAILABLE: the connection was refused")]
    generation: Annotated[int, Doc("How many different sets of it have been in force; 0: none.", 3)]
    hash: Annotated[str | None, Doc("The hash of the rules in force.", "4be1a90c77d2")]
    version: Annotated[str | None, Doc("The version of the last accepted set.", "12")]
    accepted_at: Annotated[str | None, Doc("When the rules in force were accepted.", format="date-time")]
    answered_at: Annotated[str | None, Doc("When it last sent a set.", format="date-time")]
    stale_since: Annotated[
        str | None,
        Doc("Since when its rules may be out of date; null: they are current.", format="date-time"),
    ]
    domains: Annotated[int, Doc("How many of its domains are in force.", 2)]
    rejected_domains: Annotated[int, Doc("How many domains of its last set were rejected.", 0)]
    rejected: Annotated[list[str], Doc("The first hundred problems of those domains.")]
    missing: Annotated[
        list[str],
        Doc("The first hundred domains in force that its last set lacks: they end after a grace time."),
    ]


class ControlPlanes(TypedDict):
    """The control planes, in the order of the settings."""

    control_planes: Annotated[
        list[ControlPlane], Doc("With several workers, each as the worker with the most problems sees it.")
    ]
    overlay_problems: Annotated[
        list[str], Doc("The first hundred problems of overlays; with any, earlier overlays are in force.")
    ]


class Amendment(TypedDict):
    """A change of limits that is in force."""

    id: Annotated[str, Doc("Its id.", "o-4a7d1ed414474e4033ac29cc")]
    kind: Annotated[Literal["override", "top_up"], Doc("How it changes limits.")]
    domain: Annotated[str, Doc("Its domain.", "token-budgets")]
    descriptor: Annotated[str, Doc("Its target: a descriptor, a pattern, or `*`.", "team=dba")]
    amount: Annotated[int, Doc("The limit, or the amount added to it.", 20_000)]
    window: Annotated[str | None, Doc("The window that it changes; null: every window.", "hour")]
    until: Annotated[str | None, Doc("When it ends; null: when it is removed.", format="date-time")]
    windows: Annotated[int | None, Doc("The number of windows that a top-up lasts.", 1)]
    since: Annotated[str, Doc("When it was made.", "2026-11-28T10:00:00Z", format="date-time")]
    author: Annotated[str, Doc("Its author.", "ana")]
    reason: Annotated[str, Doc("Why.", "launch of the new search")]
    blocks: Annotated[bool, Doc("Whether it blocks all requests.", False)]


class AmendmentList(TypedDict):
    """A page of amendments, the latest first."""

    amendments: list[Amendment]
    version: Annotated[int, Doc("The version of the amendments in force here.", 12)]
    next_cursor: Annotated[str | None, _NEXT]


class Window(TypedDict):
    """One window of a bucket, and its use."""

    window: Annotated[str, Doc("Its name, as in the counter's key.", "hour")]
    name: Annotated[str | None, Doc("The name of its limit.")]
    state: Annotated[State, Doc("The state of its usage: how close it is to the limit.")]
    used: Annotated[int | None, Doc("Its use; null: the counter is not a number.", 4_211)]
    limit: Annotated[int | None, Doc("The limit of the rule; null: no rule is known for the counter.", 5_000)]
    effective_limit: Annotated[int | None, Doc("The limit after limits as data and amendments.", 6_000)]
    remaining: Annotated[int | None, Doc("The remaining amount.", 1_789)]
    share: Annotated[float, Doc("The used share of it; 1 if it is 0.", 0.7018)]
    amended_by: Annotated[list[str], Doc("The ids of the amendments that change the limit.")]
    held: Annotated[int | None, Doc("Tokens set aside for requests in flight; null: not known.")]
    burn_per_second: Annotated[float | None, Doc("The current rate of use; null: not known yet.", 1.25)]
    runs_out_at: Annotated[
        str | None, Doc("When it will be exhausted; null: not before it resets.", format="date-time")
    ]
    forecast_by: Annotated[
        Basis | None,
        Doc(
            "The method for `runs_out_at`: the current rate, or the profile of earlier weeks; "
            "null: not known yet."
        ),
    ]
    starts_at: Annotated[str | None, Doc("When it began.", format="date-time")]
    resets_at: Annotated[str | None, Doc("When it ends.", format="date-time")]
    counter: Annotated[str, Doc("Its key.", "{token-budgets|team=dba}:hour:2026-11-28T10Z")]


class Budget(TypedDict):
    """A bucket: its limits, and its use."""

    domain: Annotated[str, Doc("Its domain.", "token-budgets")]
    descriptor: Annotated[
        str | None,
        Doc("Its descriptor, for requests; null: its key has a digest in place of a value.", "team=dba"),
    ]
    entries: Annotated[list[list[str]], Doc("Keys and values for display.", [["team", "dba"]])]
    bucket: Annotated[str, Doc("The beginning of the keys of its counters.", "{token-budgets|team=dba}")]
    rule: Annotated[str | None, Doc("The path of its rule; null: none is known.", "token-budgets.team_dba")]
    name: Annotated[str | None, Doc("The name of the rule.")]
    source: Annotated[str | None, Doc("The file and line of the rule.", "limits.yaml:4")]
    kind: Annotated[BudgetKind | None, Doc("Tokens, or requests.")]
    shadow: Annotated[bool, Doc("Whether the rule refuses nothing.", False)]
    state: Annotated[State, Doc("The worst state of its windows.")]
    share: Annotated[float, Doc("The used share of its most used window.", 0.7018)]
    windows: list[Window]
    amendments: Annotated[
        list[Amendment], Doc("Amendments that match it, including those without an effect.")
    ]


class Budgets(TypedDict):
    """A page of budgets."""

    budgets: list[Budget]
    next_cursor: Annotated[str | None, _NEXT]
    partial: Annotated[
        bool, Doc("Whether budgets that belong before the last one of the page may be missing.", False)
    ]
    partial_reason: Annotated[str | None, Doc("Why the page is partial.")]
    scanned: Annotated[int, Doc("How many counters were scanned.", 1_234)]
    total: Annotated[int | None, Doc("How many budgets match; null: not known.")]
    domains: Annotated[list[str], Doc("The first thousand domains in force.")]


class BeforeAndAfter(TypedDict):
    """A bucket before and after a change."""

    before: Budget
    after: Budget


class CounterHeld(TypedDict):
    """A counter that was set to 0."""

    counter: Annotated[str, Doc("Its key.", "{token-budgets|team=dba}:hour:2026-11-28T10Z")]
    used: Annotated[int | None, Doc("Its previous value; null: not a number.", 4_211)]


class Edit(TypedDict):
    """One edit, and its effect."""

    action: Annotated[Literal["put", "remove", "reset"], Doc("The operation.")]
    id: Annotated[str | None, Doc("The amendment's id; null: a reset.")]
    domain: Annotated[str | None, Doc("Its domain; null: there was no such amendment.", "token-budgets")]
    descriptor: Annotated[str | None, Doc("Its target.", "team=dba")]
    window: Annotated[str | None, Doc("The window that it changes; null: every window.", "hour")]
    before: Annotated[Amendment | None, Doc("The amendment that it replaced or removed.")]
    after: Annotated[Amendment | None, Doc("The amendment that is in force after it.")]
    counters: Annotated[list[CounterHeld], Doc("For a reset: the counters that were set to 0.")]


class AuditLine(Edit):
    """One edit in the audit."""

    version: Annotated[int, Doc("The version of the amendments after it.", 12)]
    at: Annotated[str, Doc("When it was made.", "2026-11-28T10:00:00Z", format="date-time")]
    author: Annotated[str, Doc("The author.", "ana")]
    reason: Annotated[str, Doc("Why.", "launch of the new search")]
    key: Annotated[str, Doc("The idempotency key of the change.", "7f6f3c7e0b9e4b0e")]


class Audit(TypedDict):
    """A page of the audit, the latest line first; all edits of one change are on one page."""

    lines: list[AuditLine]
    next_cursor: Annotated[str | None, _NEXT]


class Changed(TypedDict):
    """The effect of a change, or of a preview."""

    dry_run: Annotated[bool, Doc("Whether nothing was changed.", False)]
    replayed: Annotated[
        bool,
        Doc(
            "Whether the idempotency key is that of an earlier call, which made the change; "
            "`edits` are its edits.",
            False,
        ),
    ]
    version: Annotated[int, Doc("The version of the amendments after it.", 13)]
    key: Annotated[str | None, Doc("Its idempotency key; null: a dry run without one.")]
    edits: list[Edit]
    budgets: Annotated[
        list[BeforeAndAfter],
        Doc("For a dry run: the first twenty affected buckets, before and after."),
    ]
    affected: Annotated[
        int | None, Doc("For a dry run: how many buckets with counters are affected; null: not known.", 17)
    ]
    affected_partial: Annotated[bool, Doc("Whether more buckets may be affected.", False)]
    exceptions: Annotated[list[Amendment], Doc("Overrides that take precedence over it.")]
    notes: Annotated[
        list[str],
        Doc(
            "Why a part of the change has no effect now, such as a misspelt domain or a window of no rule.",
            ["it changes no limit of team=dba: the rule has no window week, but hour, day"],
        ),
    ]
    confirmation: Annotated[str | None, Doc("For a dry run: the confirmation to send with the real request.")]
    confirm_by: Annotated[str | None, Doc("When the confirmation expires.", format="date-time")]
