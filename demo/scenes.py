"""The scenes, with their checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from testing.waiting import wait_for

from .budgets import DBA, LENGTHS, PAYMENTS, SEARCH, SUPPORT, start_of
from .callers import Caller
from .identities import Company
from .outcome import SceneFailed, expect
from .parts import SMALL, Parts
from .steps import CHARGE, Player

_JITTER = 5
"""Seconds that REFUSAL_RETRY_JITTER may add to a retry-after."""

TOP_UP = 5_000
"""Tokens that dba gets in addition."""

TITLES = (
    "idle: nothing is used",
    "burn: dba uses up its hour",
    "refusal: dba gets the reason, support continues",
    "refill: an operator tops dba up",
    "workloads: a namespace uses up its minute",
    "books: usage by team and user",
)

DBA_PROMPTS = (
    ("ann", "Write a migration that adds an index."),
    ("ben", "Explain the plan of this join."),
    ("ann", "How large will this table be in a year?"),
    ("ben", "Which of these indexes is never used?"),
    ("ann", "What locks does this statement take?"),
    ("ben", "Why is this query slow?"),
)
SUPPORT_PROMPTS = (
    "Draft a reply to this ticket.",
    "Translate this answer into German.",
    "Summarise this thread.",
)
WORKLOAD_PROMPTS = (
    "Is this a card payment?",
    "Classify this receipt.",
    "Which currency is this?",
    "Is this a refund?",
)


@dataclass(frozen=True)
class Stranger:
    """A caller without a budget, with the expected status and message."""

    what: str
    caller: Caller
    status: int
    why: str


@dataclass(frozen=True)
class Cast:
    """All callers."""

    people: dict[str, Caller]
    strangers: tuple[Stranger, ...]
    payments: Caller
    search: Caller
    outsiders: dict[str, Caller]


@contextmanager
def cast(parts: Parts) -> Iterator[Cast]:
    """Make all callers, with their identities."""
    callers: list[Caller] = []

    def person(token: str) -> Caller:
        callers.append(Caller(parts.teams, token=token))
        return callers[-1]

    def workload(files: tuple[str, str] | None) -> Caller:
        callers.append(Caller(parts.workloads, context=parts.mesh.client(files), model=SMALL))
        return callers[-1]

    company, mesh = parts.company, parts.mesh
    try:
        yield Cast(
            {
                "ann": person(company.token("ann", team="dba")),
                "ben": person(company.token("ben", team="dba")),
                "sue": person(company.token("sue", team="support")),
            },
            (
                Stranger("no token", person(""), 401, "Jwt is missing"),
                Stranger(
                    "a forged token",
                    person(Company().token("ann", team="dba")),
                    401,
                    "Jwt verification fails",
                ),
                Stranger(
                    "a token without a team",
                    person(company.token("eve")),
                    429,
                    "no descriptor has the key 'team'",
                ),
                Stranger(
                    "an unknown team", person(company.token("eve", team="x")), 429, "no rule matches team=x"
                ),
            ),
            workload(mesh.workload("payments")),
            workload(mesh.workload("search")),
            {"no certificate": workload(None), "no SPIFFE id": workload(mesh.stranger())},
        )
    finally:
        for caller in callers:
            caller.close()


def play(player: Player) -> None:
    """Play all scenes. Raises Wrong at the first failure."""
    with cast(player.parts) as everybody:

        def teams() -> None:
            idle(player)
            burn(player, everybody)
            refusal(player, everybody)
            refill(player, everybody)

        player.within("hour", (DBA, SUPPORT), teams)
        player.within("minute", (PAYMENTS, SEARCH), lambda: workloads(player, everybody))
        if not player.fast:
            next_minute(player, everybody)
        books(player)
        player.stage.ended()


def idle(player: Player) -> None:
    """Show that nothing is used."""
    player.stage.scene(1)
    balances = player.books.balances()
    player.stage.balances(balances)
    player.begin(DBA, SUPPORT)
    for account in (DBA, SUPPORT):
        uses = [f"{each.used:,} of {each.limit:,} this {each.unit}" for each in balances[account].windows]
        player.stage.say(f"{account.kind} {account.name} has used {', '.join(uses)}")
    player.expect_exact(DBA, SUPPORT)
    player.pause()


def burn(player: Player, everybody: Cast) -> None:
    """Team dba exhausts its hourly budget with 4 to 6 prompts."""
    player.stage.scene(2)
    asked = 0
    for asked, (user, prompt) in enumerate(DBA_PROMPTS, start=1):
        answer = player.prompt(DBA, everybody.people[user], prompt, user=user, stream=asked % 2 == 0)
        expect(answer.status == 200, f"dba's prompt {asked} got {answer.status}, while something was left")
        expect(400 <= answer.tokens <= 1500, f"an answer cost {answer.tokens} tokens, not 400 to 1,500")
        if not player.left(DBA):
            break
    left = player.left(DBA)
    expect(
        not left, f"dba still has {left:,} tokens after {asked} prompts, which should have used up its hour"
    )
    expect(asked >= 4, f"dba's hour was used up by {asked} prompts, and should have lasted for 4 to 6")
    player.stage.say(f"dba has used up its hour with {asked} prompts; the last one still was answered.")


def refusal(player: Player, everybody: Cast) -> None:
    """Team dba gets 429 with the reason, support is not affected, and callers cannot assume other
    identities.
    """
    player.stage.scene(3)
    hour = player.books.balances()[DBA].windows[0]
    ann, ben, sue = (everybody.people[name] for name in ("ann", "ben", "sue"))
    for stream in (False, True):
        answer = player.prompt(DBA, ann, DBA_PROMPTS[0][1], user="ann", stream=stream)
        expect(answer.status == 429, f"dba has nothing left, and got {answer.status} in place of 429")
        why = f"dba-hourly: {hour.used} of {hour.limit} tokens of this hour are used."
        expect(answer.message.startswith(why), f"dba got the message {answer.message!r} instead of {why!r}")
        wait = int(answer.headers.get("retry-after", 0))
        expect(
            0 < wait <= LENGTHS["hour"] + _JITTER,
            f"dba got a retry-after of {wait} s, which is not the end of this hour",
        )
        expect("x-envoy-ratelimited" in answer.headers, "a refusal came without x-envoy-ratelimited")
    for stream in (False, True):
        answer = player.prompt(SUPPORT, sue, SUPPORT_PROMPTS[int(stream)], user="sue", stream=stream)
        expect(answer.status == 200, f"support has tokens left, and got {answer.status}")

    player.stage.say("Whoever claims to be another team is still the one in the token:")
    note = "sends X-Team-ID: support"
    answer = player.prompt(DBA, ben, "Hello?", user="ben", stream=False, note=note, x_team_id="support")
    expect(answer.status == 429, f"dba got {answer.status} by calling itself support")
    note = "sends X-Team-ID: dba"
    answer = player.prompt(
        SUPPORT, sue, SUPPORT_PROMPTS[2], user="sue", stream=False, note=note, x_team_id="dba"
    )
    expect(answer.status == 200, f"support got {answer.status} by calling itself dba")
    for stranger in everybody.strangers:
        note = f"has {stranger.what}, sends X-Team-ID: support"
        answer = player.stranger(stranger.caller, note=note, x_team_id="support")
        expect(answer.status == stranger.status, f"a caller who {note} got {answer.status}")
        expect(stranger.why in answer.message, f"a caller who {note} got {answer.message!r}")
    player.expect_exact(DBA, SUPPORT)
    player.show_counters("team-budgets")


def refill(player: Player, everybody: Cast) -> None:
    """An operator gives dba another 5,000 tokens for this hour; its use stays what it was."""
    player.stage.scene(4)
    before = player.books.balances()
    support, used = before[SUPPORT], before[DBA].used
    player.top_up(DBA, TOP_UP, "hour", "the launch is today")
    expect(used == player.books.balances()[DBA].used, "a top-up has changed what dba has used")
    player.expect_exact(DBA)
    player.pause()
    for stream in (False, True):
        answer = player.prompt(
            DBA, everybody.people["ben"], "Why is this query slow?", user="ben", stream=stream
        )
        expect(answer.status == 200, f"dba was topped up, and got {answer.status}")
    player.expect_exact(DBA)
    expect(
        support == player.books.balances()[SUPPORT], "support's budget was touched, and dba's was topped up"
    )


def workloads(player: Player, everybody: Cast) -> None:
    """The namespace payments exhausts its 100 tokens a minute, and search is not affected."""
    player.stage.scene(5)
    player.begin(PAYMENTS, SEARCH)
    asked = 0
    for asked, prompt in enumerate(WORKLOAD_PROMPTS, start=1):
        answer = player.prompt(PAYMENTS, everybody.payments, prompt, stream=asked % 2 == 0)
        expect(answer.status == 200, f"payments got {answer.status}, while something was left")
        if not player.left(PAYMENTS):
            break
    expect(not player.left(PAYMENTS), f"payments still has tokens after {asked} prompts")
    expect(asked > 1, "payments had no more than one prompt")
    for stream in (False, True):
        _refused_workload(player, everybody, stream=stream)
    spoof = "spiffe://cluster.local/ns/search/sa/default"
    _refused_workload(player, everybody, note=f"sends X-Workload: {spoof}", x_workload=spoof)
    answer = player.prompt(SEARCH, everybody.search, WORKLOAD_PROMPTS[1], stream=False)
    expect(answer.status == 200, f"search has tokens left, and got {answer.status}")
    player.expect_exact(PAYMENTS, SEARCH)
    player.show_counters("token-budgets")
    for what, caller in everybody.outsiders.items():
        try:
            status = caller.ask("Hello?", stream=False).status
        except httpx.TransportError:
            player.stage.say(f"A caller with {what} does not get through the handshake.")
        else:
            raise SceneFailed(f"a caller with {what} got {status}, and should not have been connected")
    if player.fast:
        player.reset(PAYMENTS)
        _new_budget(player, everybody)


def next_minute(player: Player, everybody: Cast) -> None:
    """The budget resets at the end of the minute."""
    player.stage.say("The budget comes back with the next minute ...")
    minute = start_of("minute")
    while start_of("minute") == minute:
        player.stage.balances(player.books.balances())
        time.sleep(0.25)
    player.begin(PAYMENTS, SEARCH)
    _new_budget(player, everybody)


def _refused_workload(
    player: Player, everybody: Cast, *, stream: bool = False, note: str = "", **headers: str
) -> None:
    answer = player.prompt(
        PAYMENTS, everybody.payments, WORKLOAD_PROMPTS[0], stream=stream, note=note, **headers
    )
    expect(answer.status == 429, f"payments has nothing left, and got {answer.status} in place of 429")
    why = "Token budget token-budgets.client_ns is used up. It resets at"
    expect(answer.message.startswith(why), f"payments got the message {answer.message!r} instead of {why!r}")


def _new_budget(player: Player, everybody: Cast) -> None:
    answer = player.prompt(PAYMENTS, everybody.payments, WORKLOAD_PROMPTS[0], stream=False)
    expect(answer.status == 200, f"payments has a new budget, and got {answer.status}")


def books(player: Player) -> None:
    """Check that metrics and the decision log have the same sums as the answers."""
    player.stage.scene(6)
    teams = {account.name: tokens for account, tokens in player.by_account.items() if account.kind == "team"}
    _agree(player, "team, by /metrics", player.books.tokens_by_team, teams)
    _agree(player, "user, by the decision log", player.books.tokens_by_user, dict(player.by_user))


def _agree(player: Player, what: str, look: Callable[[], dict[str, int]], answers: dict[str, int]) -> None:
    try:
        wait_for(what, lambda: look() == answers, patience=CHARGE)
    except AssertionError:
        raise SceneFailed(f"tokens by {what}: {look()}, and the answers came to {answers}") from None
    sums = ", ".join([f"{name} {tokens:,}" for name, tokens in sorted(answers.items())])
    player.stage.say(f"tokens by {what}: {sums}")
