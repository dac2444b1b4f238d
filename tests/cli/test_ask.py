"""`ask` sends a request to a real service, and prints the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from testing.redis_servers import free_port
from testing.service import CommandResult, Service

from .conftest import DOMAIN, Command

Unique = Callable[[str], str]


@pytest.fixture
def ask(command: Command, service: Service) -> Callable[..., CommandResult]:
    """Run `ask` on the running service, in its domain or another; times in the output are replaced by T."""

    def run(*arguments: str, domain: str = DOMAIN) -> CommandResult:
        code, out, err = command("ask", domain, *arguments, "--server", service.grpc)
        return CommandResult(
            code, re.sub(r"resets in \d+ \w+( \d+ \w+)?$", "resets in T", out, flags=re.MULTILINE), err
        )

    return run


def test_a_check_shows_the_remaining_budget(ask: Callable[..., CommandResult], unique: Unique) -> None:
    """It counts nothing, however often it is repeated."""
    team = unique("dba")
    shown = f"OK\n  team={team}: 100 of 100 left for this year (team-budget), resets in T\n"
    assert [(0, shown, "")] * 2 == [ask(f"team={team}"), ask(f"team={team}")]


def test_a_limit_that_is_shown_only_in_refusals_shows_the_remaining_budget(
    ask: Callable[..., CommandResult], unique: Unique
) -> None:
    """It does not say that nothing limits the descriptor."""
    entry = f"quiet={unique('ann')}"
    left = f"OK\n  {entry}: 3,960 of 4,000 left for this year, resets in T\n"
    assert (0, left, "") == ask(entry, "--hits", "40")
    ask(entry, "--hits", "4000")
    assert (
        f"OVER_LIMIT\n  {entry}: over the limit, 0 of 4,000 left for this year, resets in T\n"
        == ask(entry).out
    )


def test_hits_are_charged_until_the_limit(ask: Callable[..., CommandResult], unique: Unique) -> None:
    """OVER_LIMIT has its own exit code, so that a script can distinguish it from an error."""
    team = unique("dba")
    charged = f"OK\n  team={team}: 60 of 100 left for this year (team-budget), resets in T\n"
    assert (0, charged, "") == ask(f"team={team}", "--hits", "40")
    refused = (
        f"OVER_LIMIT\n  team={team}: over the limit, 0 of 100 left for this year (team-budget), resets in T\n"
    )
    assert (3, refused, "") == ask(f"team={team}", "--hits", "61")


def test_negative_hits_are_given_back(ask: Callable[..., CommandResult], unique: Unique) -> None:
    """After that, the next check has room again."""
    team = unique("dba")
    ask(f"team={team}", "--hits", "90")
    assert 0 == ask(f"team={team}", "--hits", "-30").code
    assert " 40 of 100 left " in ask(f"team={team}").out


def test_several_descriptors_are_sent_in_one_request(
    ask: Callable[..., CommandResult], unique: Unique
) -> None:
    """They are in one request. Each has a line, including those without a limit."""
    team = unique("dba")
    assert (
        0,
        "OK\n"
        f"  team={team}: 100 of 100 left for this year (team-budget), resets in T\n"
        f"  team={team},model=gpt-x: 4,000 of 4,000 left for these 2 years, resets in T\n"
        "  internal=yes: unlimited\n"
        "  user=ada: nothing limits it\n",
        "",
    ) == ask(f"team={team}", f"team={team},model=gpt-x", "internal=yes", "user=ada")


def test_every_window_is_shown_with_its_budget_in_full(
    ask: Callable[..., CommandResult], unique: Unique
) -> None:
    """The protocol may not be able to carry the number. Names are shown as written."""
    team = unique("dba")
    assert 0 == ask(f"team={team}", "--hits", "5000", domain="budgets").code
    assert (
        3,
        "OVER_LIMIT\n"
        f"  team={team}:\n"
        "    over the limit, 0 of 5,000 left for this year (stündlich), resets in T\n"
        "    29,999,995,000 of 30,000,000,000 left for these 2 years (Überlauf), resets in T\n",
        "",
    ) == ask(f"team={team}", domain="budgets")


@pytest.mark.parametrize(
    "descriptors, code, shown",
    [
        (
            ["trial=a"],
            0,
            "  trial=a: over the limit (its shadow_mode lets it through), 0 of 0 left for this year, "
            "resets in T",
        ),
        (
            ["quota=a", "none=a"],
            3,
            "  quota=a: over the limit (a quota_mode rule refuses only together with all others), "
            "0 of 0 left for this year, resets in T\n  none=a: nothing limits it",
        ),
        (
            ["everyone=a", "gold=a"],
            0,
            "  everyone=a: nothing limits it: the rule of another descriptor replaces its own\n"
            "  gold=a: 10 of 10 left for this year (gold), resets in T",
        ),
    ],
    ids=["shadow", "quota", "replaced"],
)
def test_the_reason_why_a_rule_does_not_refuse_is_shown(
    ask: Callable[..., CommandResult], descriptors: list[str], code: int, shown: str
) -> None:
    """Rules that are over their limit but let the request pass, and rules that another one replaces."""
    verdict = "OVER_LIMIT" if code else "OK"
    assert (code, f"{verdict}\n{shown}\n", "") == ask(*descriptors, domain="budgets")


def test_a_descriptor_that_no_rule_is_for_is_refused_with_the_reason(
    ask: Callable[..., CommandResult],
) -> None:
    """The domain has `unmatched: deny`."""
    assert (
        3,
        "OVER_LIMIT\n"
        "  team=dba: 100 of 100 left for this year, resets in T\n"
        "  team=other: refused: no rule matches it, and the domain has `unmatched: deny`\n",
        "",
    ) == ask("team=dba", "team=other", domain="closed")


def test_a_key_that_is_missing_is_named(ask: Callable[..., CommandResult]) -> None:
    """The domain has `required_keys`."""
    assert (
        3,
        "OVER_LIMIT\n"
        "  refused: no descriptor has the key 'team', which the domain requires (required_keys)\n"
        "  user=ada: refused: no rule matches it, and the domain has `unmatched: deny`\n",
        "",
    ) == ask("user=ada", domain="closed")


@pytest.mark.parametrize(
    "domain, hint",
    [
        ("budget", "did you mean 'budgets'?"),
        ("Budgets\x1b", "did you mean 'budgets'?"),
        ("x", "its domains are budgets, cli, closed"),
    ],
)
def test_a_domain_without_rules_is_reported(
    ask: Callable[..., CommandResult], domain: str, hint: str
) -> None:
    """The output has a similar name that has rules. The service answers OK, as upstream does."""
    shown = domain.replace("\x1b", "\\x1b")
    assert (
        0,
        f"OK\n  the service has no rules for the domain '{shown}': {hint}\n  team=dba: nothing limits it\n",
        "",
    ) == ask("team=dba", domain=domain)


def test_the_answer_can_be_had_as_json(ask: Callable[..., CommandResult], unique: Unique) -> None:
    """It is the same JSON as that of /json, with the same exit codes."""
    code, out, _ = ask(f"team={unique('dba')}", "--hits", "101", "--json")
    answer = json.loads(out)
    assert (3, "OVER_LIMIT", "team-budget") == (
        code,
        answer["overallCode"],
        answer["statuses"][0]["currentLimit"]["name"],
    )


def test_json_has_the_explanation_with_whole_numbers(
    ask: Callable[..., CommandResult], unique: Unique
) -> None:
    """Every window has them, also if they exceed the fields of the protocol."""
    _, out, _ = ask(f"team={unique('dba')}", "--json", domain="budgets")
    (known,) = json.loads(out)["dynamicMetadata"]["explanation"]["descriptors"]
    assert ["5000", "30000000000"] == [str(window["limit"]) for window in known["windows"]]


def test_values_may_contain_commas_and_backslashes(ask: Callable[..., CommandResult], unique: Unique) -> None:
    r"""`\,` is a comma and `\\` a backslash of the value; a charge under one spelling is visible under the
    other.
    """
    name = unique("a")
    assert 0 == ask(rf"team={name}\,b\\,model=c", "--hits", "4000").code
    assert 3 == ask(rf"team={name}\,b\\,model=c", "--hits", "1").code
    assert 0 == ask(rf"team={name}\,b,model=c", "--hits", "1").code


def test_values_may_contain_bytes_that_are_not_utf_8(
    ask: Callable[..., CommandResult], unique: Unique
) -> None:
    """The bytes from the shell are sent unchanged, and shown escaped."""
    code, out, _ = ask(f"team={unique('x')}\udcff\x1b", "--hits", "101")
    assert (3, True) == (code, out.replace("\n", "").isprintable())


@pytest.mark.parametrize("descriptor", ["team", "", "=dba", "team=dba,", "team=dba,,model=x"])
def test_an_invalid_descriptor_is_reported(ask: Callable[..., CommandResult], descriptor: str) -> None:
    """The error is one line, and the service is not called."""
    code, out, err = ask(descriptor)
    assert (1, "", 1, True) == (
        code,
        out,
        err.count("\n"),
        err.startswith("a descriptor is key=value,key=value; "),
    )


def test_an_invalid_request_is_answered_by_the_service(command: Command, service: Service) -> None:
    """The output has its reason and the status."""
    code, out, err = command("ask", "", "team=dba", "--server", service.grpc)
    assert (1, "", 1) == (code, out, err.count("\n"))
    assert err.startswith(f"no decision from {service.grpc}: INVALID_ARGUMENT: ")


def test_an_unreachable_server_is_reported(command: Command) -> None:
    """The error is one line with the address."""
    server = f"127.0.0.1:{free_port()}"
    code, out, err = command("ask", DOMAIN, "team=dba", "--server", server)
    assert (1, "", 1) == (code, out, err.count("\n"))
    assert err.startswith(f"no decision from {server}: UNAVAILABLE: ")


@pytest.mark.parametrize("server", ["", "localhost", "localhost:grpc", "http://localhost:8081"])
def test_an_invalid_server_address_is_reported(command: Command, server: str) -> None:
    """It is not resolved by a library with another syntax of addresses."""
    code, out, err = command("ask", DOMAIN, "team=dba", "--server", server)
    assert (1, "", 1, True) == (
        code,
        out,
        err.count("\n"),
        err.startswith(f'the server "{server}" is not an address: give host:port'),
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["x\udcff", "team=dba"], "DOMAIN: is not UTF-8"),
        ([DOMAIN, "team=dba", "--hits", str(2**64)], "--hits: give a number from -18446744073709551615 to"),
    ],
    ids=["domain", "hits"],
)
def test_values_beyond_the_protocol_are_refused(command: Command, arguments: list[str], said: str) -> None:
    """A domain that is not text, or more hits than fit."""
    code, _, err = command("ask", *arguments)
    assert (2, True) == (code, f"ratelimit-service ask: error: argument {said}" in err)
