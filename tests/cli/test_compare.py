"""`compare`: two running services answer the same requests, and differences are reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.transports.grpc_method import PATH
from testing.certificates import Authority
from testing.mirror import mirroring
from testing.service import COMMAND, Service, calling, inherited, port_of
from testing.waiting import wait_for

from .conftest import Command

RULES = """\
domain: llm
descriptors:
  - key: team
    rate_limit: {unit: year, requests_per_unit: 1000}
    descriptors:
      - key: model
        value: "gpt-*"
        rate_limit: {unit: hour, requests_per_unit: 100000}
  - key: internal
    rate_limit: {unlimited: true}
  - key: trial
    shadow_mode: true
    rate_limit: {unit: day, requests_per_unit: 10}
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of the first service."""
    file = tmp_path_factory.mktemp("rules") / "llm.yaml"
    file.write_text(RULES)
    return file


@pytest.fixture(scope="module")
def serving(rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Starts services, each once; `limit` is that of a team, and `copy` distinguishes services with the same
    settings.
    """
    started: dict[str, Service] = {}

    def start(limit: int = 1000, copy: int = 0, **settings: str) -> Service:
        name = json.dumps([limit, copy, settings])
        if name not in started:
            file = tmp_path_factory.mktemp("other") / "llm.yaml"
            file.write_text(RULES.replace("requests_per_unit: 1000}", f"requests_per_unit: {limit}}}"))
            started[name] = Service({"CONFIG_PATH": str(file), "BACKEND_TYPE": "memory", **settings})
        return started[name]

    yield start
    for each in started.values():
        each.kill()


@pytest.fixture
def compare(command: Command, serving: Callable[..., Service]) -> Callable[..., tuple[int, str, str]]:
    """Run `compare` with a first service that has these rules, and a second one."""

    def run(ours: Service, *options: str, theirs: Service | None = None) -> tuple[int, str, str]:
        first = theirs or serving()
        return command("compare", "--theirs", first.grpc, "--ours", ours.grpc, *options)

    return run


Compare = Callable[..., tuple[int, str, str]]


def test_two_services_with_the_same_rules_answer_alike(
    compare: Compare, serving: Callable[..., Service], rules: Path
) -> None:
    """Checks, charges and calls without a cost are sent for every rule, until budgets are exhausted."""
    same = serving(copy=1)
    code, out, err = compare(same, "--rules", str(rules), "--requests", "300", "--seed", "10", "--strict")
    assert (0, "300 requests: 300 answered alike, 0 differ without one\n", "") == (code, out, err)


def test_budgets_differ_for_that_reason(
    compare: Compare, serving: Callable[..., Service], rules: Path
) -> None:
    """BUDGET_DOMAINS: every difference is explained on the page; with --strict they are still differences."""
    options = ("--rules", str(rules), "--requests", "200", "--seed", "11")
    budgets = serving(BUDGET_DOMAINS="llm")
    code, out, _ = compare(budgets, *options)
    assert (0, True) == (code, "differ for known reasons, 0 differ without one\n" in out)
    assert {"budget", "follows"} == {line.split()[1].rstrip(":") for line in out.splitlines()[1:]}
    assert 3 == compare(budgets, *options, "--strict")[0]


def test_another_limit_is_found_and_shown(
    compare: Compare, serving: Callable[..., Service], rules: Path
) -> None:
    """The output has both answers and a hint at the cause, and the exit code reports the difference."""
    lower = serving(limit=900)
    code, out, _ = compare(lower, "--rules", str(rules), "--requests", "100", "--seed", "12", "--show", "1")
    assert 3 == code
    assert "current_limit: theirs 1000, ours 900  [no reason known: do both have the same rules?]" in out
    (unexplained,) = re.findall(r", (\d+) differ without one\n", out)
    assert 1 <= out.count("current_limit: theirs 1000") < int(unexplained)


def test_it_can_be_read_by_a_program(compare: Compare, serving: Callable[..., Service], rules: Path) -> None:
    """Lines of JSON; the last one is the summary."""
    lower = serving(limit=900)
    code, out, _ = compare(lower, "--rules", str(rules), "--requests", "50", "--seed", "13", "--json")
    *found, summary = map(json.loads, out.splitlines())
    assert (3, 50, "summary") == (code, summary["requests"], summary["kind"])
    assert summary["unexplained"] == 50 - summary["same"]
    limits = [
        (each["theirs"], each["ours"], each["reason"])
        for line in found
        for each in line["differences"]
        if each["field"] == "statuses[0].current_limit"
    ]
    assert {(1000, 900, None)} == set(limits)
    assert {"difference"} == {line["kind"] for line in found}


def test_checks_only_charges_nothing(compare: Compare, serving: Callable[..., Service], rules: Path) -> None:
    """It is as safe as reading on a service that others use."""
    ours = serving(limit=900)
    asked = ("--rules", str(rules), "--requests", "100", "--seed", "14", "--json")
    _, out, _ = compare(ours, *asked, "--checks-only")
    found = [json.loads(line) for line in out.splitlines()[:-1]]
    lefts = {
        (each["theirs"], each["ours"])
        for line in found
        for each in line["differences"]
        if each["field"].endswith("limit_remaining")
    }
    assert {(1000, 900)} == lefts
    # Charged, the same requests leave less.
    assert compare(ours, *asked)[1] != out


def test_a_decision_log_is_replayed(
    compare: Compare, serving: Callable[..., Service], rules: Path, tmp_path: Path
) -> None:
    """The decisions of one service are sent to two others; requests with several descriptors are put together
    again.
    """
    log = tmp_path / "decisions.log"
    environment = {"CONFIG_PATH": str(rules), "BACKEND_TYPE": "memory", "DECISION_LOG": "all"}
    theirs, same = serving(), serving(copy=1)
    with log.open("wb") as file, Service(environment, stdout=file.fileno()) as service:
        asked = ("--rules", str(rules), "--requests", "80", "--seed", "15")
        compare(service, *asked, theirs=serving(limit=900))
        assert 0 == service.stop()
    parts = [json.loads(line).get("part") for line in log.read_text().splitlines()]
    assert [2, 2] in parts
    code, out, err = compare(same, "--replay", str(log), theirs=theirs)
    assert (0, "80 requests: 80 answered alike, 0 differ without one\n", "") == (code, out, err)
    assert "30 requests: " in compare(same, "--replay", str(log), "--requests", "30", theirs=theirs)[1]


def test_lines_that_are_not_replayed_are_reported(
    compare: Compare, serving: Callable[..., Service], tmp_path: Path
) -> None:
    """Lines of another kind, and values that the log has cut."""
    log = tmp_path / "access.log"
    call = {"domain": "llm", "descriptors": [{"entries": [["team", "told"]], "hits": 0}]}
    log.write_text(f"GET /\n{json.dumps({'ratelimit': call})}\n")
    _, out, _ = compare(serving(copy=1), "--replay", str(log))
    assert out.splitlines()[-1].split() == "1 not compared: other lines".split()


@pytest.mark.parametrize(
    "options, complaint",
    [
        ([], "give either --replay FILE or --rules PATH"),
        (["--replay", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["--rules", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--mirror", "--rules", "x"], "--mirror compares what callers send"),
        (["--mirror", "--listen", ":0", "--listen-cert", "/dev/null"],
            "--listen-cert and --listen-key belong together"),
    ],
    ids=["nothing", "no file", "no rules", "both", "half a pair"],
)  # fmt: skip
def test_an_impossible_comparison_is_reported(
    compare: Compare, serving: Callable[..., Service], options: list[str], complaint: str
) -> None:
    """The error is one line, with exit code 1."""
    code, out, err = compare(serving(), *options)
    assert (1, "", True) == (code, out, complaint in err)


def test_an_unreachable_service_is_named(
    command: Command, serving: Callable[..., Service], rules: Path
) -> None:
    """It may be the first or the second one."""
    there = serving().grpc
    options = ("--rules", str(rules), "--timeout", "0.2")
    for name, addresses in (("theirs", ("127.0.0.1:1", there)), ("ours", (there, "127.0.0.1:1"))):
        code, _, err = command("compare", "--theirs", addresses[0], "--ours", addresses[1], *options)
        assert (1, f"{name} (127.0.0.1:1) cannot be reached within 0.2 s\n") == (code, err)


def test_both_are_reached_over_tls(command: Command, rules: Path, tmp_path: Path) -> None:
    """Without the given CA, neither is reached."""
    authority = Authority()
    certificate, key = authority.issue("localhost").write(tmp_path)
    tls = {"GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": certificate, "GRPC_SERVER_TLS_KEY": key}
    with Service({"CONFIG_PATH": str(rules), "BACKEND_TYPE": "memory", **tls}) as service:
        address = f"localhost:{port_of(service.grpc)}"
        asked = ("compare", "--theirs", address, "--ours", address, "--rules", str(rules), "--checks-only")
        limited = ("--requests", "20", "--timeout", "5", "--theirs-tls", "--ours-tls")
        done = command(*asked, *limited, "--ca", authority.write(tmp_path))
        assert (0, "20 requests: 20 answered alike, 0 differ without one\n") == (done.code, done.out)
        assert 1 == command(*asked, "--timeout", "0.3").code


# The mirror


def test_a_mirror_answers_until_a_signal(
    serving: Callable[..., Service], tmp_path: Path, rules: Path
) -> None:
    """It prints a summary regularly and at the end, with the exit code."""
    theirs, ours = serving(), serving(limit=900)
    with mirroring(theirs.grpc, ours.grpc, "--every", "0.1", "--json") as (process, address):
        assert process.stdout is not None
        with calling(address) as caller:
            assert [1000, 999] == [
                caller.ask("llm", "team", "mirrored", hits=hits).statuses[0].limit_remaining
                for hits in (0, 1)
            ]
        with calling(ours.grpc) as caller:
            wait_for(
                "a charge that ours has counted as well",
                lambda: caller.ask("llm", "team", "mirrored").statuses[0].limit_remaining == 899,
            )
        lines: list[dict[str, Any]] = []
        while not lines or lines[-1]["kind"] != "summary" or lines[-1]["requests"] < 2:
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert (3, "") == (process.returncode, err)
        assert 2 == json.loads(out.splitlines()[-1])["unexplained"]


def test_a_mirror_keeps_nothing_of_calls_that_fail(serving: Callable[..., Service]) -> None:
    """It runs for days, and a service may be away for hours of them. An error that stays takes 18 kB."""
    parts, part = 6, 250
    options = ("--show", "0", "--json", "--every", "0.1")
    with (
        mirroring(serving().grpc, "127.0.0.1:1", *options) as (process, address),
        calling(address) as caller,
    ):
        assert process.stdout is not None
        (comparison,) = children(process.pid)
        sizes = []
        for number in range(1, parts + 1):
            for _ in range(part):
                caller.ask("llm", "team", "dba", hits=0)
            while json.loads(process.stdout.readline()).get("unexplained", 0) < number * part:
                pass
            sizes.append([resident(pid) for pid in (process.pid, comparison)])
        for first, last in zip(sizes[0], sizes[-1], strict=True):
            assert last - first < 5 * part * (parts - 1)


def children(pid: int) -> list[int]:
    """The children of a process."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_mirror_answers_without_its_comparison(serving: Callable[..., Service]) -> None:
    """The comparison is a process of its own: if it ends, callers do not notice, and the exit code says
    so.
    """
    with mirroring(serving().grpc, serving(copy=1).grpc) as (process, address), calling(address) as caller:
        caller.ask("llm", "team", "dba", hits=0)
        (comparison,) = children(process.pid)
        os.kill(comparison, signal.SIGKILL)
        assert process.stderr is not None
        said = "the comparison has ended: callers are still answered, and nothing is compared\n"
        assert said == process.stderr.readline()
        for _ in range(3):
            caller.ask("llm", "team", "dba", hits=0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert 1 == process.returncode


def test_a_mirror_speaks_tls_on_all_sides(rules: Path, tmp_path: Path) -> None:
    """Its callers and both services use TLS."""
    authority = Authority()
    certificate, key = authority.issue("localhost").write(tmp_path)
    tls = {"GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": certificate, "GRPC_SERVER_TLS_KEY": key}
    with Service({"CONFIG_PATH": str(rules), "BACKEND_TYPE": "memory", **tls}) as service:
        named = f"localhost:{port_of(service.grpc)}"
        options = ("--theirs-tls", "--ours-tls", "--ca", authority.write(tmp_path))
        port = ("--listen-cert", certificate, "--listen-key", key)
        with mirroring(named, named, *map(str, (*options, *port))) as (process, address):
            with grpc.secure_channel(f"localhost:{port_of(address)}", authority.channel()) as channel:
                request = RateLimitRequest(domain="llm")
                request.descriptors.add().entries.add(key=b"unknown", value=b"x")
                assert channel.unary_unary(PATH, None, None)(request.SerializeToString(), timeout=30)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            assert (0, "1 requests: 1 answered alike, 0 differ without one\n", "") == (
                process.returncode,
                out,
                err,
            )


def resident(pid: int) -> int:
    """The memory of a process in kB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1])


def test_the_server_does_not_import_the_comparison() -> None:
    """Only the command itself imports its modules."""
    script = (
        "import sys; import ratelimit_service.cli.options; print([m for m in sys.modules if 'compar' in m "
        "and 'ratelimit' in m])"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", script], capture_output=True, text=True, check=True, env=inherited()
    )
    assert "[]\n" == done.stdout
