"""The command line as a whole: version, help, and errors."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ratelimit_service.cli.options import COMMANDS
from testing.service import COMMAND, inherited

from .conftest import Command

ROOT = Path(__file__).parents[2]
GOOD = "domain: {}\ndescriptors: [{{key: a, rate_limit: {{unit: day, requests_per_unit: 1}}}}]\n"


def test_the_version_is_that_of_the_package(command: Command) -> None:
    """It is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (0, f"{project['version']}\n", "") == command("--version")


def test_help_lists_every_command(command: Command) -> None:
    """Each has a line, and the help says how to get more."""
    code, out, err = command("--help")
    listed = re.findall(r"^    ([a-z-]+)\b", out.partition("commands:")[2], re.MULTILINE)
    assert (0, [each.name for each in COMMANDS], "") == (code, listed, err)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"]], ids=" ".join)
def test_help_and_the_version_do_not_import_the_server(arguments: list[str]) -> None:
    """Shells ask for them on each completion, and images in their builds."""
    script = (
        "import sys, atexit; from ratelimit_service.__main__ import main; "
        "atexit.register(lambda: print(*[name for name, module in sys.modules.items() if module])); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"argparse", "ratelimit_service.cli.options"} <= imported
    assert (
        set() == {"asyncio", "ssl", "logging", "structlog", "yaml", "google.protobuf", "getpass"} & imported
    )


@pytest.mark.parametrize("name", [each.name for each in COMMANDS])
def test_each_command_has_help(command: Command, name: str) -> None:
    """A percent sign in a text could break it."""
    code, out, err = command(name, "--help")
    assert (0, True, "") == (code, out.startswith(f"usage: ratelimit-service {name} "), err)


def test_no_command_is_a_wrong_command_line(command: Command) -> None:
    """The help says what is missing."""
    code, out, err = command()
    assert (2, "", True) == (code, out, err.startswith("usage: ratelimit-service "))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["chek"], "argument COMMAND: invalid choice: 'chek'"),
        (["--hits", "1"], "the following arguments are required: COMMAND"),
        (["ask"], "the following arguments are required: DOMAIN, DESCRIPTOR"),
        (["ask", "d", "a=b", "--hit", "1"], "unrecognized arguments: --hit"),
        (["ask", "d", "a=b", "--timeout", "0"], "argument --timeout: give a number of seconds, 0.1 at least"),
        (["check-config", "--strict"], "the following arguments are required: PATH"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_explained(command: Command, arguments: list[str], said: str) -> None:
    """The error goes to stderr, with exit code 2."""
    code, out, err = command(*arguments)
    assert (2, "", True) == (code, out, f"error: {said}" in err)


def test_options_may_stand_between_arguments(command: Command, tmp_path: Path) -> None:
    """`check-config a.yaml --strict b.yaml` checks both."""
    paths = [tmp_path / f"{name}.yaml" for name in "ab"]
    for path in paths:
        path.write_text(GOOD.format(path.stem), "utf-8")
    checked = command("check-config", str(paths[0]), "--strict", str(paths[1]))
    assert (0, "ok: 2 rules in 2 domains\n", "") == checked


@pytest.mark.parametrize("text, code", [("true", 0), ("false", 1), ("", 1), ("yes", 1)])
def test_a_variable_selects_whether_files_are_merged(
    command: Command, tmp_path: Path, text: str, code: int
) -> None:
    """It is read as `serve` reads it."""
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(GOOD.format("d").replace("key: a", f"key: {name}"), "utf-8")
    ended = command("check-config", str(tmp_path), MERGE_DOMAIN_CONFIG=text)
    assert code == ended.code
    assert ("MERGE_DOMAIN_CONFIG is not a boolean" in ended.err) is (text in ("", "yes"))


def test_a_closed_pipe_causes_no_traceback() -> None:
    """`ratelimit-service ... | head` prints no traceback."""
    read = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.close()"], stdin=subprocess.PIPE)
    assert read.stdin is not None
    read.wait()
    ended = subprocess.run(
        [*COMMAND, "convert", str(ROOT / "config/token-budgets.yaml")],
        stdout=read.stdin,
        stderr=subprocess.PIPE,
        env=inherited(),
        cwd=ROOT,
        check=False,
    )
    read.stdin.close()
    assert (1, b"") == (ended.returncode, ended.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_is_an_error_of_one_line() -> None:
    """An export that is cut off must not look complete."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*COMMAND, "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=inherited(),
            cwd=ROOT,
            text=True,
            check=False,
        )
    assert (1, "the output cannot be written: No space left on device\n") == (ended.returncode, ended.stderr)
