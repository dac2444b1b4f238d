"""The commands for operators: their output, their effects, and their exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ratelimit_service.cli.operating import read_commands as reading
from testing.redis_servers import free_port
from testing.service import COMMAND, REPOSITORY, Service, inherited

from ..conftest import Command
from .conftest import BECAUSE, READ, RULES, Operate


def test_budgets_are_listed_by_what_is_used(operate: Operate) -> None:
    """Each budget has a line, sorted by its most used window."""
    operate.charge("team=near", 4_500)
    operate.charge("team=far", 10)
    operate.charge("user=list", 200)
    code, out, err = operate("budgets", "budgets", "--min-used", "50%")
    head, *lines = out.splitlines()
    assert (0, "") == (code, err)
    assert [
        "STATE",
        "USED",
        "OF",
        "WINDOW",
        "RESETS",
        "IN",
        "RUNS",
        "OUT",
        "IN",
        "DESCRIPTOR",
    ] == head.split()
    assert [
        ["over", "200", "%", "200", "of", "100", "year"],
        ["low", "90", "%", "4,500", "of", "5,000", "year"],
    ] == [line.split()[:7] for line in lines]
    assert ["user=list (shadow mode)", "team=near"] == [line[64:].strip() for line in lines]
    assert "budgets: team=near" in operate("budgets", "--value", "near").out
    found = json.loads(operate("budgets", "--json", "--prefix", "fa").out)
    assert [("team=far", "ok")] == [(each["descriptor"], each["state"]) for each in found["budgets"]]
    code, out, err = operate("budgets", "--limit", "1", "--sort", "name")
    assert (0, 2, True) == (code, len(out.splitlines()), "raise --limit for more" in err)


def test_names_are_escaped_on_a_terminal_that_is_not_utf_8(operate: Operate) -> None:
    """Instead of a traceback."""
    operate.charge("team=na\u00efve-\u65e5", 1)
    environment = {"RATELIMIT_SERVER": operate.service.debug}
    asked = ("budgets", "budgets", "--prefix", "na")
    for encoding, shown in (("utf-8", "team=na\u00efve-\u65e5"), ("latin-1", "team=na\u00efve-\\u65e5")):
        done = subprocess.run(
            [*COMMAND, *asked],
            env={**inherited(), **environment, "PYTHONIOENCODING": encoding},
            cwd=REPOSITORY,
            capture_output=True,
            check=False,
        )
        assert (0, b"") == (done.returncode, done.stderr)
        assert done.stdout.decode(encoding).rstrip().endswith(shown)


def test_usage_is_added_up_from_ledgers(operate: Operate) -> None:
    """It is a table, CSV or JSON. A domain without entries is not a failure."""
    operate.charge("spender=dba", 4_000)
    operate.charge("spender=dba", 211)
    time = ("--from", "2020-01-01", "--to", "2100-01-01", "--per", "month", "--time-zone", "Europe/Berlin")
    code, out, err = operate("usage", "budgets", "--by", "spender", *time)
    assert (0, "") == (code, err)
    head, line, total = [each.split() for each in out.splitlines()]
    assert ["FROM", "SPENDER", "KEYS", "TOKENS", "REFUNDED", "REFUSED"] == head
    assert ["dba", "spender", "4,211", "0", "0"] == line[1:]
    assert ["total", "spender", "4,211", "0", "0"] == total
    (row,) = json.loads(operate("usage", "budgets", "--by", "spender", "--json", *time).out)["rows"]
    assert ({"spender": "dba"}, 4_211) == (row["by"], row["charged"])
    rows = operate("usage", "budgets", *time, "--format", "csv").out.splitlines()
    assert ["start,end,keys,charged,refunded,refused,amount,currency", "spender,4211,0,0,,"] == [
        rows[0],
        rows[1].split(",", 2)[2],
    ]
    code, out, err = operate("usage", "other", *time)
    assert (0, "", True) == (
        code,
        out,
        "no ledger has entries of other in that time; a budget has a ledger if" in err,
    )
    assert "" == operate("usage", "budgets", "--keys", "model,spender", *time).out
    assert "4,211" in operate("usage", "budgets", "--keys", "spender", *time).out
    wrong = operate("usage", "budgets", "--from", "2026-12-01", "--to", "2026-11-01")
    assert (1, True) == (wrong.code, "must be later" in wrong.err)
    assert 2 == operate("usage", "budgets", *time[:4], "--time-zone", "Mars/Base").code


def test_a_list_without_budgets_is_not_an_error(operate: Operate) -> None:
    """The output names the domains, in case another one was meant."""
    said = "no budget matches; the domains in force: budgets\n"
    assert (0, "", said) == operate("budgets", "budgts")


def test_one_budget_is_shown_with_all_its_windows(operate: Operate) -> None:
    operate.charge("team=shown", 1_000)
    code, out, err = operate("show", "budgets", "team=shown")
    lines = out.splitlines()
    assert (0, "", "team=shown in budgets: ok") == (code, err, lines[0])
    assert "counts tokens" in lines[1]
    assert lines[2].startswith("  year [####................]  20 %  1,000 of 5,000 used, resets in ")
    assert lines[3].startswith("  2year [....................]   2 %  1,000 of 50,000 used, resets in ")
    assert 1_000 == json.loads(operate("show", "budgets", "team=shown", "--json").out)["windows"][0]["used"]
    code, out, err = operate("show", "budgets", "nobody=x")
    assert (3, "", 1) == (code, out, err.count("\n"))
    assert err.endswith("`ratelimit-service explain` says why\n")


def test_a_refusal_is_explained(operate: Operate) -> None:
    """It has the rule, the rules that lose, and the caller's message. Nothing is counted."""
    operate.charge("team=over", 5_000)
    code, out, err = operate("explain", "budgets", "team=over", "--hits", "7")
    assert (3, "") == (code, err)
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0].startswith("OVER_LIMIT: ")
    assert lines[1].startswith("a caller reads: Token budget yearly is used up.")
    assert [line for line in lines if line.startswith("* budgets.team ")]
    assert "budgets.team.model: needs model as well" in lines
    again = operate("explain", "budgets", "team=over", "--json")
    assert ("over", 5_000) == (
        json.loads(again.out)["verdict"],
        json.loads(again.out)["budget"]["windows"][0]["used"],
    )
    assert 0 == operate("explain", "budgets", "team=other").code


def test_a_top_up_lets_a_team_in_again(operate: Operate) -> None:
    """It is previewed, made, shown and removed. The use does not change."""
    operate.charge("team=up", 5_000)
    asked = ("top-up", "budgets", "team=up", "2k", "--windows", "1", "--window", "year", *BECAUSE)
    would = operate(*asked, "--dry-run")
    assert (0, "would top-up team=up in budgets (year): none -> +2,000 for 1 window") == (
        would.code,
        would.out.splitlines()[0],
    )
    assert 3 == operate("explain", "budgets", "team=up").code
    made = operate(*asked)
    assert (0, "") == (made.code, made.err)
    assert made.out.startswith(
        "top-up team=up in budgets (year): none -> +2,000 for 1 window\nteam=up in budgets: ok\n"
    )
    assert 0 == operate("explain", "budgets", "team=up").code
    shown = operate("show", "budgets", "team=up").out
    assert made.out.splitlines()[-1] == shown.splitlines()[-1]
    assert "5,000 of 7,000 (5,000 in the rules) used" in shown
    name = shown.splitlines()[-1].split()[0]
    assert 0 == operate("remove", name, *BECAUSE).code
    assert "5,000 of 5,000 used" in operate("show", "budgets", "team=up").out
    line = operate("audit", "--limit", "1").out
    assert "ana  remove team=up in budgets (year): +2,000 for 1 window -> none  (a launch)\n" in line
    lines = json.loads(operate("audit", "--json").out)["lines"]
    assert {"ana"} == {each["author"] for each in lines[:2]}


def test_a_change_of_several_budgets_needs_a_confirmation(operate: Operate) -> None:
    """Without a terminal, the kill switch needs --yes. Its removal is tested too."""
    asked = ("override", "budgets", "team=*", "0", "--until", "2h", *BECAUSE)
    refused = operate(*asked)
    assert (1, "") == (refused.code, refused.out)
    assert "give --yes to make the change without a question" in refused.err
    assert 0 == operate("explain", "budgets", "team=alike").code
    assert 0 == operate(*asked, "--yes").code
    assert 3 == operate("explain", "budgets", "team=alike").code
    assert 0 == operate("unblock", "budgets", "team=*", "--yes", *BECAUSE).code
    assert 0 == operate("explain", "budgets", "team=alike").code


@pytest.mark.parametrize(
    ("domain", "descriptor", "note"),
    [
        ("budget", "team=x", "the service has no rules for the domain 'budget': did you mean 'budgets'?"),
        ("budget", "*", "the service has no rules for the domain 'budget': did you mean 'budgets'?"),
        ("other", "team=x", "the service has no rules for the domain 'other': its domains are budgets"),
        ("budgets", "tem=x", "no rule in force limits tem=x, and the block refuses it all the same"),
        (
            "budgets",
            "tem=*",
            "no rule in force limits descriptors like tem=*, and the block refuses them all the same",
        ),
        ("budgets", "team=never-used", ""),
        ("budgets", "team=never-used-*", ""),
    ],
)
def test_a_change_that_finds_nothing_to_limit_is_made_with_a_note(
    operate: Operate, domain: str, descriptor: str, note: str
) -> None:
    """The kill switch for a misspelt domain would otherwise seem to work, and stop nothing."""
    said = f"note: {note}\n" if note else ""
    for how in (["--dry-run"], ["--yes"]):
        made = operate("override", domain, descriptor, "0", *how, *BECAUSE)
        assert (0, said) == (made.code, made.err)
    undone = operate("unblock", domain, descriptor, "--yes", *BECAUSE)
    assert (0, "") == (undone.code, undone.err)


def test_a_change_of_a_window_that_no_rule_has_is_made_with_a_note(operate: Operate) -> None:
    """Of one budget and of a pattern. It would otherwise be shown, and change nothing."""
    for descriptor, which in (("team=x", "the rule has"), ("team=*", "no rule has")):
        asked = ("top-up", "budgets", descriptor, "5", "--window", "week", "--yes", *BECAUSE)
        named = "no window week" if which == "the rule has" else "a window week"
        others = "year, 2year"
        expected = f"note: it changes no limit of {descriptor}: {which} {named}, but {others}\n"
        made = operate(*asked)
        assert (0, expected) == (made.code, made.err)
        assert expected.removeprefix("note: ").rstrip() in operate(*asked, "--json", "--dry-run").out
        name = made.out.partition("(ana: a launch)")[0].split()[-1]
        assert name


def test_a_change_with_the_same_key_is_made_once(operate: Operate) -> None:
    asked = ("top-up", "budgets", "team=once", "5", *BECAUSE, "--key", "once")
    assert "" == operate(*asked).err
    again = operate(*asked)
    assert (0, "note: this change had been made before, with the same key\n") == (again.code, again.err)
    assert "of 5,005" in operate("show", "budgets", "team=once").out


def test_a_reset_over_the_api_reaches_the_memory_store(operate: Operate) -> None:
    """Without --server, it uses the store of the environment, as before."""
    operate.charge("team=reset", 5_000)
    asked = ("reset", "budgets", "team=reset", "--window", "year", "--server", operate.service.debug)
    assert operate(*asked, "--dry-run").out.startswith("would reset team=reset in budgets (year): ")
    done = operate(*asked, "--reason", "a runaway job")
    assert (0, True) == (done.code, " held 5,000\n" in done.out)
    assert (
        "  2year [##..................]  10 %  5,000 of 50,000"
        in operate("show", "budgets", "team=reset").out
    )
    assert 1 == operate(*asked, "--spare", "2year").code
    assert operate("reset", "budgets", "team=reset").err.startswith("the memory store lives inside ")


def test_all_replicas_are_waited_for(operate: Operate) -> None:
    """The command waits until they have given rules, or equal ones. After a timeout, it names the replicas
    that are behind.
    """
    assert (0, "") == (operate("wait").code, operate("wait", "--generation", "1").err)
    replica = json.loads(operate("wait", "--json").out)["replicas"][0]
    assert 0 == operate("wait", "--hash", replica["hash"][:12]).code
    code, out, err = operate("wait", "--generation", "9", "--within", "0.1")
    assert (3, "", True) == (code, out, f"  {replica['id']}: rules of generation 1 (" in err)
    late = operate("wait", "--replicas", "2", "--within", "0.1")
    assert (3, "not within 0.1 s:\n  there are 1 of 2 replicas\n") == (late.code, late.err)
    assert 3 == operate("wait", "--amendments", "999999", "--within", "0.1").code


class Pages:
    """A service that sorts its budgets in two parts, and is still reading the first one at the first
    request.
    """

    def __init__(self) -> None:
        self.asked: list[object] = []

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        self.asked.append(query["cursor"])
        first = query["cursor"] is None
        reading = first and len(self.asked) == 1
        shares = [0.1] if reading else [0.9, 0.85] if first else [1.2, 0.8]
        return {
            "budgets": [{"share": share, "state": "low"} for share in shares],
            "next_cursor": "second" if first else None,
            "partial": True,
            "partial_reason": "the store is still being read: ask again" if reading else "too many",
            "total": None,
        }


def test_parts_are_sorted_together_where_a_filter_makes_them_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command waits for a part that is still being read. Without a filter, the first part is enough."""
    monkeypatch.setattr(reading, "_ASKED_AGAIN", 0.0)
    client: Any = Pages()
    found, last = reading.listed(client, {"min_used": 0.8, "sort": "-used"}, 3)
    assert [1.2, 0.9, 0.85] == [each["share"] for each in found]
    assert ([None, None, "second"], "more") == (client.asked, last["next_cursor"])
    client = Pages()
    found, _ = reading.listed(client, {"sort": "-used"}, 2)
    assert [0.9, 0.85] == [each["share"] for each in found]


def replica(
    name: str, generation: int, amendments: int = 1, digest: str = "ab", behind: float = 0.0
) -> dict[str, object]:
    return {
        "id": name,
        "generation": generation,
        "hash": digest,
        "amendments_version": amendments,
        "behind_seconds": behind,
    }


def test_replicas_that_are_behind_are_found() -> None:
    """By default, they are compared with the latest replica. The line has for how long the rules are old."""
    old = [replica("a", 2), replica("b", 1, digest="cd", behind=725.4)]
    line = "b: rules of generation 1 (cd), amendments 1, behind for 12 min 5 s"
    assert [line] == list(reading.behind(old, 0, "", 0, 1))
    two = [replica("a", 2), replica("b", 1, digest="cd")]
    assert ["b: rules of generation 1 (cd), amendments 1"] == list(reading.behind(two, 0, "", 0, 1))
    assert [] == list(reading.behind(two, 1, "", 0, 1))
    assert ["b: rules of generation 1 (cd), amendments 1"] == list(reading.behind(two, 0, "ab", 0, 1))
    changed = [replica("a", 2, 7), replica("b", 2, 6)]
    assert ["b: rules of generation 2 (ab), amendments 6"] == list(reading.behind(changed, 0, "", 0, 1))
    assert 2 == len(list(reading.behind(changed, 0, "", 8, 1)))
    assert ["there are 0 of 1 replicas"] == list(reading.behind([], 0, "", 0, 1))


@pytest.mark.parametrize(
    "environment, code, said",
    [
        ({"RATELIMIT_TOKEN": "wrong-token-0123456789"}, 5, "the token is not valid"),
        ({"RATELIMIT_TOKEN": READ}, 5, "this token may only read"),
        ({"RATELIMIT_TOKEN": ""}, 5, "(set RATELIMIT_TOKEN)"),
        ({"RATELIMIT_TOKEN": "no\nheader"}, 1, "the token has characters that a token cannot have"),
        ({"RATELIMIT_SERVER": f"127.0.0.1:{free_port()}"}, 1, " does not answer: Connection refused"),
        ({"RATELIMIT_SERVER": "ftp://x"}, 1, "is not an address"),
        ({"RATELIMIT_SERVER": "http://ops:hunter2@x"}, 1, "is not an address"),
        ({"RATELIMIT_TOKEN": "", "RATELIMIT_TOKEN_FILE": "/no/file"}, 1, "cannot be read"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(
    operate: Operate, environment: dict[str, str], code: int, said: str
) -> None:
    """No line has a secret in it."""
    ended = operate("top-up", "budgets", "team=x", "5", *BECAUSE, **environment)
    assert (code, "", 1) == (ended.code, ended.out, ended.err.count("\n")), ended.err
    assert said in ended.err


@pytest.mark.parametrize("token", ["", "some-token-0123456789"], ids=["no token", "a token"])
def test_a_service_without_a_token_for_changes_is_named_as_the_cause(
    command: Command, tmp_path: Path, token: str
) -> None:
    """Neither a token nor another one would help, so the message does not ask for one."""
    (tmp_path / "rules.yaml").write_text(RULES)
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": str(tmp_path),
        "HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
    }
    with Service(environment) as service:
        code, out, err = command(
            "top-up",
            "budgets",
            "team=x",
            "5",
            *BECAUSE,
            RATELIMIT_SERVER=service.debug,
            RATELIMIT_TOKEN=token,
        )
    assert (5, "", True, False) == (
        code,
        out,
        "the service was started with neither ADMIN_TOKEN" in err,
        "RATELIMIT_TOKEN" in err,
    )


def test_the_other_ports_are_no_api(operate: Operate) -> None:
    """A person may give the wrong port."""
    ended = operate("budgets", "--server", operate.service.http)
    assert (1, True) == (ended.code, "is it the debug port of the service?" in ended.err)
    assert 1 == operate("budgets", "--server", operate.service.grpc, "--timeout", "1").code


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "999999w"])
def test_a_moment_beyond_the_calendar_is_a_wrong_option(operate: Operate, until: str) -> None:
    ended = operate("override", "budgets", "team=x", "5", "--until", until, *BECAUSE)
    assert (2, "") == (ended.code, ended.out)
    assert "error: argument --until: " in ended.err and "Traceback" not in ended.err
