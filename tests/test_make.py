"""The Makefile: the named targets exist, and a first setup prints its steps in their order."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.service import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = {
    name
    for names in re.findall(r"^([a-z][a-z0-9 -]*):(?!=| SETUP_STEPS)", MAKEFILE, re.M)
    for name in names.split()
}
VENV = ".venv packages package"
STEPS = {
    target: steps.replace("$(VENV_STEPS)", VENV).split()
    for targets, steps in re.findall(r"^([a-z][a-z0-9 -]*): SETUP_STEPS = (.*)", MAKEFILE, re.M)
    for target in targets.split()
}
NAMERS = [
    *(REPOSITORY / ".github/workflows").glob("*.yml"),
    *(REPOSITORY / ".ci/run", REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"),
    *(REPOSITORY / "docs").glob("*.md"),
]


@pytest.mark.parametrize("file", NAMERS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_target_that_is_named_exists(file: Path) -> None:
    """Names are in lines of scripts, in code blocks, and between backticks."""
    found = re.findall(
        r"(?:^ *|`|run: |&& )make ([a-z][a-z -]*[a-z])(?= *[`#A-Z=&\n|]|$)", file.read_text(), re.M
    )
    named = {target for targets in found for target in targets.split()}
    assert set() == named - TARGETS


def test_what_is_set_up_is_not_set_up_again() -> None:
    """The last command of a stamp's rule writes the stamp."""
    rules = re.findall(r"^(\S+\.stamp):.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert {".venv/run.stamp", ".venv-release/release.stamp"} < {stamp for stamp, _ in rules}
    assert [] == [stamp for stamp, recipe in rules if not recipe.splitlines()[-1].startswith("\t@touch ")]


@pytest.mark.parametrize("target", ["run", *sorted(STEPS)])
def test_the_steps_of_a_target_are_numbered_in_the_order_in_which_they_run(target: str) -> None:
    said = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", target],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert STEPS.get(target, VENV.split()) == list(dict.fromkeys(steps(said)))


def steps(text: str) -> list[str]:
    """Return the steps that lines of shell print, including those of the tools that they run."""
    found = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        if step := re.search(r"step\.sh\"? ([\w.-]+) ", line):
            found.append(step[1])
        elif directory := re.search(r"make_venv\.sh (\.\S+)", line):
            found.append(directory[1])
        elif program := re.search(r"build_go\.sh ([\w-]+) ", line):
            found.append(program[1])
        elif tool := re.search(r"sh \"?(?:tools|\$tools)/(\w+\.sh)", line):
            found += steps((REPOSITORY / "tools" / tool[1]).read_text())
    return found


@pytest.mark.parametrize(
    ("ports", "printed"),
    [
        (
            {},
            {
                "gRPC on 8081,",
                "http://localhost:6070/",
                "localhost:8080/json",
                "localhost:9090/metrics",
                "team=dba --hits 40\n",
            },
        ),
        (
            {"GRPC_PORT": "1", "PORT": "2", "PROMETHEUS_ADDR": "127.0.0.1:3", "DEBUG_PORT": "4"},
            {
                "gRPC on 1, HTTP on 2, metrics on 3, debug on 127.0.0.1:4.",
                "localhost:2/json",
                "localhost:3/metrics",
            }
            | {"--hits 40 --server localhost:1\n", "budgets --server localhost:4\n", "http://localhost:4/"},
        ),
    ],
    ids=["the defaults", "others"],
)
def test_what_to_try_has_the_ports_that_are_served(ports: dict[str, str], printed: set[str]) -> None:
    said = subprocess.run(
        ["sh", "tools/try_next.sh"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **ports},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set() == {each for each in printed if each not in said}


@pytest.mark.parametrize(
    ("names", "printed"),
    [("a b c", "[2/3] building b\n"), ("a c", "building b\n"), ("", "building b\n")],
    ids=["of three", "of other steps", "of none"],
)
def test_a_step_is_printed_to_stderr_with_its_number(names: str, printed: str) -> None:
    done = subprocess.run(
        ["sh", "tools/step.sh", "b", "building b"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "SETUP_STEPS": names},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("", printed) == (done.stdout, done.stderr)


def container_engine(directory: Path, name: str, code: int) -> str:
    """Put a program that ends with a code where commands are looked up, and return that path."""
    program = directory / name
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    ("installed", "variable", "missing"),
    [
        ("", "", "docker is not installed"),
        ("docker", "", "`docker info` fails: its daemon does not run, or this user may not use it"),
        ("docker", "podman; create_args: --tty", "podman is not installed"),
    ],
    ids=["no docker", "docker without a daemon", "no podman"],
)
def test_wheels_without_containers_is_one_sentence_before_anything_is_installed(
    tmp_path: Path, installed: str, variable: str, missing: str
) -> None:
    path = container_engine(tmp_path, installed or "other", 1)
    for name in ("make", "sh", "find"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    lock_is_new = ["--what-if", "requirements-release.lock"]
    done = subprocess.run(
        [tmp_path / "make", "--no-print-directory", *lock_is_new, "PYTHON=no-python", "wheels"],
        cwd=REPOSITORY,
        env={"PATH": path, "CIBW_CONTAINER_ENGINE": variable},
        capture_output=True,
        text=True,
    )
    first, *rest = done.stderr.splitlines()
    wanted = (
        f"make wheels needs docker, or podman with CIBW_CONTAINER_ENGINE=podman, and {missing}; "
        "`make wheel` builds one wheel, for this Python and platform, without containers"
    )
    assert wanted == first
    assert [] == [line for line in rest if not line.startswith("make: ***")]
    assert done.returncode != 0 and "" == done.stdout


@pytest.mark.parametrize(
    ("name", "variable"), [("docker", ""), ("podman", "podman")], ids=["docker", "podman"]
)
def test_an_engine_that_answers_is_enough(tmp_path: Path, name: str, variable: str) -> None:
    path = container_engine(tmp_path, name, 0)
    done = subprocess.run(
        [shutil.which("sh") or "/bin/sh", "tools/need_engine.sh"],
        cwd=REPOSITORY,
        env={"PATH": path, "CIBW_CONTAINER_ENGINE": variable},
        capture_output=True,
        text=True,
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("program", "wrong"),
    [
        (None, "python cannot be run"),
        ("echo False 3.9.2", "python is Python 3.9.2"),
        ("exit 1", "python cannot be run"),
    ],
    ids=["none", "an old one", "a broken one"],
)
def test_an_interpreter_that_does_not_fit_is_one_line(
    tmp_path: Path, program: str | None, wrong: str
) -> None:
    """Nothing is created."""
    python = tmp_path / "python"
    if program:
        python.write_text(f"#!/bin/sh\n{program}\n")
        python.chmod(0o755)
    done = subprocess.run(
        ["sh", "tools/make_venv.sh", str(tmp_path / "new")],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    advice = "install Python 3.11 or newer, and run `make PYTHON=python3.11 ...`"
    assert (1, "", f"{tmp_path}/{wrong}: {advice}\n") == (done.returncode, done.stdout, done.stderr)
    assert not (tmp_path / "new").exists()
