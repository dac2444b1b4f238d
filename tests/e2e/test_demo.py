"""`make demo`: every scene succeeds, a failure is reported, and nothing is left running."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import ssl
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from demo.scenes import TITLES
from testing.service import REPOSITORY, inherited
from testing.waiting import wait_for

from ..docs.documents import blocks, tables

pytestmark = pytest.mark.e2e

COMMAND = (sys.executable, "-m", "demo")
LONGEST = 60
"""Seconds that `make demo FAST=1` may take."""

Line = dict[str, str]


@pytest.fixture(autouse=True)
def _installed(redis_server: object) -> None:
    """Skip the tests if redis-server is not installed, as all others that need it."""


@contextmanager
def playing(*options: str, terminal: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run the demonstration in its own process group, which is ended at the end."""
    with subprocess.Popen(
        (*COMMAND, *options),
        cwd=REPOSITORY,
        env={**inherited(), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE if terminal is None else terminal,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if is_anything_left_of(process):
                os.killpg(process.pid, signal.SIGKILL)


def is_anything_left_of(process: subprocess.Popen[str]) -> bool:
    """Return whether the process, or any process that it has started, is still running."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def scenes_in(output: str) -> dict[int, str]:
    """Return the lines of each scene. A scene that was repeated because its window ended counts once, as it
    ended.
    """
    parts = re.split(r"^== (\d)\. .*\n", output, flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def requests_in(text: str) -> list[Line]:
    """Return the parsed lines about requests."""
    lines = [
        line for line in text.splitlines() if re.match(r"(team|namespace)=\S+ (user=\S+ )?status=", line)
    ]
    return [dict(re.findall(r"(\w+)=('[^']*'|\"[^\"]*\"|\S+)", line)) for line in lines]


def statuses(lines: list[Line], who: str, name: str) -> list[str]:
    return [line["status"] for line in lines if line.get(who) == name]


def added(lines: list[Line], key: str) -> dict[str, int]:
    """Return the sums of tokens by team, or by user, for the lines that have one."""
    sums: dict[str, int] = {}
    for line in lines:
        if line["tokens"] != "0" and key in line:
            sums[line[key]] = sums.get(line[key], 0) + int(line["tokens"])
    return sums


def timeless(text: str) -> list[str]:
    """Return lines without the parts that depend on the time."""
    return re.sub(r"\d{4}-\d\d-\d\d(T[\d:]+Z)?", "…", text).splitlines()


def test_every_scene_succeeds() -> None:
    """Without a terminal, each request is a line. The lines follow the scenes, and their numbers add up."""
    with playing("--fast") as demo:
        output, errors = demo.communicate(timeout=LONGEST)
        assert (0, "") == (demo.returncode, errors)
        assert not is_anything_left_of(demo)
    scenes = scenes_in(output)
    lines = {number: requests_in(text) for number, text in scenes.items()}
    assert [1, 2, 3, 4, 5, 6] == sorted(scenes)

    assert "team dba has used 0 of 5,000 this hour, 0 of 50,000 this day" in scenes[1]
    assert "team support has used 0 of 20,000 this hour, 0 of 200,000 this day" in scenes[1]

    burnt = 0
    for line in lines[2]:
        assert ("dba", "200") == (line["team"], line["status"])
        assert 400 <= int(line["tokens"]) <= 1500
        burnt += int(line["tokens"])
        assert max(0, 5000 - burnt) == int(line["left"])
    assert 4 <= len(lines[2]) <= 6
    assert {"yes", "no"} == {line["stream"] for line in lines[2]}
    assert "0" == lines[2][-1]["left"]

    assert ["429"] * 3 == statuses(lines[3], "team", "dba")
    assert ["200"] * 3 == statuses(lines[3], "team", "support")
    assert ["401", "401", "429", "429"] == statuses(lines[3], "team", "-")
    assert all(f"dba-hourly: {burnt} of 5000" in line["note"] for line in lines[3] if line["team"] == "dba")
    assert {"yes", "no"} == {line["stream"] for line in lines[3] if line["team"] == "dba"}
    held = dict(re.findall(r"^\$ redis-cli GET '(\S+)'\n(\d+)$", scenes[3], re.MULTILINE))
    assert {burnt, added(lines[3], "team")["support"]} == set(map(int, held.values()))
    assert 4 == len(held)

    assert "top-up team=dba in team-budgets (hour): none -> +5,000 for 1 window" in scenes[4]
    assert "of 10,000 (5,000 in the rules) used" in scenes[4]
    assert [("200", 10_000 - burnt - int(lines[4][0]["tokens"]))] == [
        (line["status"], int(line["left"])) for line in lines[4][:1]
    ]

    payments = statuses(lines[5], "namespace", "payments")
    assert ["429"] * 3 + ["200"] == payments[-4:]
    assert {"200"} == set(payments[:-4])
    assert len(payments) > 5
    assert ["200"] == statuses(lines[5], "namespace", "search")
    assert 2 == scenes[5].count("does not get through the handshake")

    (shown,) = [
        block.text
        for block in blocks(REPOSITORY / "README.md")
        if "make demo" in block.text and "==" in block.text
    ]
    assert [] == [line for line in timeless(shown)[1:] if line not in ("…", *timeless(output))]

    everything = requests_in(output)
    for key, what in (("team", "team, by /metrics"), ("user", "user, by the decision log")):
        listed = ", ".join([f"{name} {tokens:,}" for name, tokens in sorted(added(everything, key).items())])
        assert f"tokens by {what}: {listed}" in scenes[6]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        pytest.param(
            ("5_000", "500_000"),
            r"Scene 2 \(burn: .*\) went wrong: dba still has \d+,\d+ tokens after 6 prompts",
            id="too-much",
        ),
        pytest.param(
            ("required_keys: [team]\n", ""),
            r"Scene 3 \(refusal: .*\) went wrong: .* without a team, .* got 200",
            id="open",
        ),
        pytest.param(
            ("unit: hour", "unit: hours"),
            r"The start went wrong: no budget .* is in force for team dba(.*\n)*.*unknown unit 'hours'",
            id="broken",
        ),
    ],
)
def test_a_wrong_outcome_is_reported(tmp_path: Path, edit: tuple[str, str], sentence: str) -> None:
    """With other rules for the teams, the exit code is 1, and the output has the failed scene with the
    reason.
    """
    rules = tmp_path / "teams.yaml"
    text = (REPOSITORY / "demo" / "teams.yaml").read_text("utf-8")
    assert edit[0] in text
    rules.write_text(text.replace(*edit), "utf-8")
    with playing("--fast", "--rules", str(rules)) as demo:
        output, errors = demo.communicate(timeout=LONGEST)
        assert 1 == demo.returncode, output
        assert not is_anything_left_of(demo)
    assert re.search(sentence, errors), errors


def test_ctrl_c_ends_everything_that_was_started() -> None:
    """During a scene. The exit code is that of an interrupted command."""
    with playing() as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("team=dba"):
                break
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to all foreground processes
        demo.communicate(timeout=LONGEST)
        assert 130 == demo.returncode
        assert not is_anything_left_of(demo)


def test_a_terminal_gets_a_live_table_and_keep_leaves_it_running() -> None:
    """The table has every budget; the commands that are printed work, until Ctrl-C."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown = bytearray()

    def until(text: str) -> str:
        while text.encode() not in shown:
            shown.extend(os.read(ours, 65536))
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")

    with playing("--fast", "--keep", terminal=theirs) as demo:
        os.close(theirs)
        seen = until("?filter=ratelimit")
        assert re.search(r"^ +dba +5,000/hour +\S+ +5,774 +0 +\d+:\d\d +5 ", seen, re.MULTILINE)
        assert "▸ 2 burn" in seen
        assert re.search(r"✓ 1 idle.*✓ 6 books\s+Every scene came out right", seen)

        commands = [shlex.split(line) for line in seen.splitlines() if line.startswith("curl -is")]
        assert [200] * 4 == [curl(command) for command in commands]
        (asked,) = re.findall(r"^\.venv/bin/ratelimit-service (ask .*)$", seen, re.MULTILINE)
        (reset,) = re.findall(r"^(\S+=.*) \.venv/bin/ratelimit-service (reset .*)$", seen, re.MULTILINE)
        assert "left for this hour (dba-hourly)" in command_line(asked)
        assert "deleted {team-budgets|team=dba}:hour:" in command_line(reset[1], reset[0])
        assert "10,000 of 10,000 (5,000 in the rules) left for this hour (dba-hourly)" in command_line(asked)
        for command, shown_by_it in (
            ("budgets", "team=dba"),
            ("top-up", "of 15,000 (5,000 in the rules) used"),
        ):
            ((environment, words),) = re.findall(
                rf"^(RATELIMIT_\S+=.*) \.venv/bin/ratelimit-service ({command}.*)$", seen, re.MULTILINE
            )
            assert shown_by_it in command_line(words, environment)
        (page,) = set(re.findall(r"^The page of its budgets, for a browser: (\S+)$", seen, re.MULTILINE))
        document = httpx.get(page, headers={"accept": "text/html"}, trust_env=False, timeout=60)
        assert (200, "text/html; charset=utf-8") == (document.status_code, document.headers["content-type"])
        (token,) = re.findall(r"^The token for changes there: (\S+)$", seen, re.MULTILINE)
        headers = {"authorization": f"Bearer {token}"}
        status = httpx.get(f"{page}api/v1/status", headers=headers, trust_env=False, timeout=60).json()
        assert "admin" == status["you"]
        before = used_by_support(page)
        wait_for("support to go on", lambda: used_by_support(page) > before)
        for address in re.findall(r"^curl -s (\S+)", seen, re.MULTILINE):
            assert 200 == httpx.get(address, trust_env=False, timeout=60).status_code

        os.killpg(demo.pid, signal.SIGINT)
        assert 0 == wait_for_the_end(demo, ours)
        assert not is_anything_left_of(demo)
    os.close(ours)


def used_by_support(page: str) -> int:
    """Return the tokens that support has used this hour."""
    bucket = {"domain": "team-budgets", "descriptor": "team=support"}
    budget = httpx.post(f"{page}api/v1/bucket", json=bucket, trust_env=False, timeout=60).json()
    return int(budget["windows"][0]["used"])


def curl(command: list[str]) -> int:
    """Return the status of a request with these arguments of curl, which is not installed everywhere."""
    url = next(word for word in command if "://" in word)
    options = [(word, command[place + 1]) for place, word in enumerate(command) if word.startswith("-")]
    given = {name: value for name, value in options if name not in ("-is", "-H")}
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    for name, value in headers.items():
        if file := re.search(r"\$\(cat (.*)\)", value):
            headers[name] = value.replace(file[0], Path(file[1]).read_text())
    context = ssl.create_default_context(cafile=given.get("--cacert"))
    if "--cert" in given:
        context.load_cert_chain(given["--cert"], given["--key"])
    body = json.loads(given["-d"])
    return httpx.post(
        url, headers=headers, json=body, verify=context, trust_env=False, timeout=60
    ).status_code


def command_line(words: str, environment: str = "") -> str:
    """Return the output of a `ratelimit-service` command."""
    variables = dict(word.split("=", 1) for word in shlex.split(environment))
    done = subprocess.run(
        (sys.executable, "-m", "ratelimit_service", *shlex.split(words)),
        cwd=REPOSITORY,
        env={**inherited(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def wait_for_the_end(process: subprocess.Popen[str], terminal: int) -> int:
    """Return the exit code. The output is read meanwhile: the terminal's buffer is small."""

    def ended() -> bool:
        os.set_blocking(terminal, False)
        with suppress(OSError):
            os.read(terminal, 65536)
        return process.poll() is not None

    wait_for("the end", ended)
    assert process.returncode is not None
    return process.returncode


def test_the_docs_have_every_scene() -> None:
    """docs/demo.md, in their order."""
    (table,) = tables(REPOSITORY / "docs" / "demo.md", "scene")
    assert list(TITLES) == [row[0] for row in table.rows]


def test_make_passes_its_variables_on() -> None:
    """`make demo FAST=1 KEEP=1`."""
    for variables, options in (((), ""), (("FAST=1",), " --fast"), (("FAST=1", "KEEP=1"), " --fast --keep")):
        done = subprocess.run(
            ("make", "--dry-run", "--no-print-directory", "demo", *variables),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f".venv/bin/python -m demo{options}" == " ".join(done.stdout.splitlines()[-1].split())
