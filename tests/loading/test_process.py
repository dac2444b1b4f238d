"""Another process reads the rules, and this process detects every way in which that can fail."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from ratelimit_service.core.errors import InvalidRules, Problem
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.loading.process import read_elsewhere
from ratelimit_service.loading.task import Task
from ratelimit_service.sources import files
from testing.waiting import until

from . import fake_readers
from .blocking_file import HeldFile, children, is_gone

RULES = (
    "domain: d\ndescriptors: [{key: team, rate_limit: {unit: day, tokens_per_unit: 5}}, {key: user, "
    "track: true}]"
)


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as lines:
        yield lines


def open_files() -> int:
    """Return the number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def reading(*paths: Path) -> Task:
    return Task(partial(files.read, files.find_in(paths)))


async def wrong(task: Task, *command: str) -> list[str]:
    """Return the problems in the result of a task."""
    with pytest.raises(InvalidRules) as refused:
        await (read_elsewhere(task, command) if command else read_elsewhere(task))
    return [str(problem) for problem in refused.value.problems]


async def test_the_process_reads_the_same_rules_as_this_one(tmp_path: Path) -> None:
    """With the same warnings."""
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    here, there = reading(path).rules(), await read_elsewhere(reading(path))
    assert there is not None
    assert [asdict(domain) for domain in here.domains] == [asdict(domain) for domain in there.domains]
    assert here.warnings == there.warnings
    assert 1 == len(there.warnings)


async def test_files_are_found_from_the_same_directory_and_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path starts in the same directory. Upstream's runtime directory works, too."""
    (tmp_path / "ratelimit" / "config").mkdir(parents=True)
    (tmp_path / "ratelimit" / "config" / "rules").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    found = []
    for watch_root in (True, False):
        find = files.runtime("", "ratelimit", "config", watch_root=watch_root, ignore_dot_files=True)
        rules = await read_elsewhere(Task(partial(files.read, find)))
        assert rules is not None
        found.append(rules.domains[0].source)
    assert ["config/rules:1", "rules:1"] == found


async def test_the_process_applies_the_settings_of_the_task(tmp_path: Path) -> None:
    """MERGE_DOMAIN_CONFIG, BUDGET_DOMAINS and MANIFEST_DOMAIN."""
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path, key in zip(paths, "ab", strict=True):
        path.write_text(
            f"domain: d\ndescriptors: [{{key: {key}, rate_limit: {{unit: day, requests_per_unit: 5}}}}]"
        )
    rules = await read_elsewhere(
        reading(*paths)._replace(merge_domains=True, budget_domains=frozenset({"d"}))
    )
    assert rules is not None
    (domain,) = rules.domains
    assert [b"a", b"b"] == [descriptor.key for descriptor in domain.descriptors]
    assert [True, True] == [
        descriptor.rule is not None and descriptor.rule.budget for descriptor in domain.descriptors
    ]


async def test_errors_in_files_are_the_same_as_in_this_process(tmp_path: Path) -> None:
    """All of them, including unreadable files."""
    path = tmp_path / "rules.yaml"
    path.write_text("domain: d\ndescriptors: [{value: a}, {key: b, x: 1}]")
    task = reading(path, tmp_path / "gone.yaml")
    with pytest.raises(InvalidRules) as here:
        task.rules()
    assert list(map(str, here.value.problems)) == await wrong(task)
    assert 3 == len(here.value.problems)


async def test_the_process_has_low_priority_and_is_killed_first(tmp_path: Path) -> None:
    """It is the first to be killed when memory runs out. It receives no Ctrl-C."""
    properties = tmp_path / "properties"
    await read_elsewhere(Task(partial(fake_readers.described, properties)))
    about = json.loads(properties.read_text())
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert min(19, own + 19) == about["priority"]
    assert ("1000", about["pid"]) == (about["oom"], about["session"])
    await read_elsewhere(Task(partial(fake_readers.described, properties)), hurry=True)
    assert own == json.loads(properties.read_text())["priority"]


async def test_the_process_inherits_only_its_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits neither an inheritable socket nor the secrets in the environment."""
    monkeypatch.setenv("REDIS_AUTH", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    properties = tmp_path / "properties"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        await read_elsewhere(Task(partial(fake_readers.described, properties)))
    about = json.loads(properties.read_text())
    assert {"pipe"} == {each.partition(":")[0] for each in about["open"]}
    assert "secret" not in about["environment"].values()
    assert "C.UTF-8" == about["environment"]["LC_ALL"]
    assert str(Path.cwd()) == about["directory"]


async def test_the_process_does_not_import_the_server(tmp_path: Path) -> None:
    """Every reload waits for its imports."""
    properties = tmp_path / "properties"
    await read_elsewhere(Task(partial(fake_readers.described, properties)))
    modules = {name.partition(".")[0] for name in json.loads(properties.read_text())["modules"]}
    assert set() == modules & {
        "asyncio",
        "grpc",
        "google",
        "redis",
        "structlog",
        "h11",
        "site",
    }


async def test_a_killed_process_is_a_problem_of_the_load(logged: list[Any]) -> None:
    """It is reported in the same way as an error in a file."""
    assert [
        "configuration: could not be read: the process that reads it was ended by SIGKILL, "
        "as happens if memory runs out. A retry follows soon, and when a file changes"
    ] == await wrong(Task(fake_readers.killed))
    assert [("error", -9)] == [(line["log_level"], line["code"]) for line in logged]


@pytest.mark.parametrize("hurry", [True, False], ids=["first", "again"])
async def test_a_file_that_does_not_answer_is_reported_by_name(
    tmp_path: Path, logged: list[Any], hurry: bool
) -> None:
    """A FIFO without a writer, or a server that is gone. A retry may succeed. On a busy machine, the process
    may not have come to the file yet.
    """
    path = tmp_path / "rules.yaml"
    os.mkfifo(path)
    before = children(os.getpid())
    patience, problem = 0.02, Problem("configuration", 0, "", "")
    while problem.file == "configuration":
        patience *= 10
        logged.clear()
        with pytest.raises(InvalidRules) as refused:
            await read_elsewhere(reading(path), hurry=hurry, patience=patience)
        (problem,) = refused.value.problems
        assert refused.value.again
    assert (
        f"{path}: could not be read: it did not answer for {patience:g} s. "
        "A retry follows soon, and when a file changes"
    ) == str(problem)
    assert [("error", str(path))] == [(line["log_level"], line["file"]) for line in logged]
    assert before == children(os.getpid())


async def test_a_process_that_is_working_does_not_time_out() -> None:
    """On a busy machine, a process with low priority may take minutes."""
    assert Loaded((), ()) == await read_elsewhere(Task(fake_readers.busy), hurry=True, patience=1.0)


async def test_the_process_reports_when_a_retry_may_succeed() -> None:
    """For example, when it runs out of file descriptors."""
    with pytest.raises(InvalidRules) as refused:
        await read_elsewhere(Task(fake_readers.short_of_descriptors))
    assert refused.value.again


async def test_a_lack_of_file_descriptors_for_pipes_is_a_problem_of_the_load(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    """The last file descriptors are enough to start a process, but not to connect its pipes."""

    async def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = open_files(), children(os.getpid())
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_read_pipe", refuse)
    (problem,) = await wrong(Task(fake_readers.chatty))
    assert "the pipes to the process that reads it failed: Too many open files" in problem
    assert before == (open_files(), children(os.getpid()))


async def test_if_the_first_process_is_killed_rules_are_read_in_this_one(logged: list[Any]) -> None:
    """Otherwise the service would serve nothing until the files change."""
    assert await read_elsewhere(Task(fake_readers.killed), hurry=True) is None
    assert [("warning", -9)] == [(line["log_level"], line["code"]) for line in logged]


@pytest.mark.parametrize(
    "make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_a_cancelled_load_leaves_no_process_and_no_pipe(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """Even while the pipes are being connected. The cancellation is what is raised."""
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)

    async def stopped_after(turns: int) -> None:
        loading = asyncio.ensure_future(read_elsewhere(reading(path)))
        for _ in range(turns):
            await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(stopped_after(1))
        before = open_files(), children(os.getpid())
        for turns in range(1, 9):
            runner.run(stopped_after(turns))
            runner.run(asyncio.sleep(0))
        assert before == (open_files(), children(os.getpid()))


async def test_a_bug_in_the_process_is_a_problem_of_the_load(logged: list[Any]) -> None:
    """The log has the end of the traceback, however long the traceback is."""
    (problem,) = await wrong(Task(fake_readers.broken))
    assert "ended early, with code 1" in problem
    (line,) = logged
    assert line["said"].endswith("RuntimeError: what went wrong\n")
    assert len(line["said"]) <= 4_000


async def test_printing_in_the_process_does_no_harm() -> None:
    """It goes to stderr."""
    assert Loaded((), ()) == await read_elsewhere(Task(fake_readers.chatty))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EPERM, errno.EMFILE], ids=os.strerror)
async def test_a_process_that_cannot_be_started_is_a_warning(
    number: int, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    """For any reason: the rules can be read in this process."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert await read_elsewhere(Task(fake_readers.killed)) is None
    assert [("warning", f"[Errno {number}] {os.strerror(number)}")] == [
        (line["log_level"], line["error"]) for line in logged
    ]


async def test_a_missing_python_is_a_process_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: list[Any]
) -> None:
    """For example, after an upgrade in place."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert await read_elsewhere(Task(fake_readers.killed)) is None
    assert ["warning"] == [line["log_level"] for line in logged]


async def test_a_process_that_ends_before_its_work_cannot_be_started(logged: list[Any]) -> None:
    """For example, because a package is missing. The rules can be read in this process."""
    assert await read_elsewhere(Task(fake_readers.killed), ["-c", "import nothing_of_that_name"]) is None
    (line,) = logged
    assert "ModuleNotFoundError" in line["said"]
    assert "warning" == line["log_level"]


def writing(data: bytes) -> str:
    """Return a program that writes these bytes, and ends when its stdin does."""
    return f"import os; os.write(1, {data!r}); os.read(0, 100); os.read(0, 1); os.read(0, 1)"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0" + b"\xff" * 1000,
        b"\0\0\0\0" + b"\0\0\0\x07nothing",
        b"Fatal Python error",
        b"\0\0\0\0" + b"\0\0\0\x02N.",
    ],
    ids=["a length", "a piece", "a text", "nothing"],
)
async def test_a_process_that_sends_invalid_data_is_killed(data: bytes, logged: list[Any]) -> None:
    """Nothing that it sent comes into force."""
    others = children(os.getpid())
    (problem,) = await wrong(Task(fake_readers.killed), "-c", writing(data))
    assert "the process that reads it sent invalid data" in problem
    assert others == children(os.getpid())


async def test_an_incomplete_transfer_is_a_problem_of_the_load(logged: list[Any]) -> None:
    """The process had begun to send, so processes can be started."""
    program = "import os; os.write(1, bytes(4) + bytes([0, 0, 1, 0]) + b'half')"
    (problem,) = await wrong(Task(fake_readers.killed), "-c", program)
    assert "ended early, with code 0" in problem


async def test_a_cancelled_load_kills_the_process(tmp_path: Path) -> None:
    """It has ended by the time the cancellation is raised."""
    path, others = tmp_path / "rules.yaml", children(os.getpid())
    held = HeldFile(path)
    loading = asyncio.create_task(read_elsewhere(reading(path)))
    await until(held.is_being_read)
    (child,) = children(os.getpid()) - others
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    held.close()
    assert is_gone(child)
    assert others == children(os.getpid())


async def test_no_pipe_and_no_process_is_left_behind(tmp_path: Path, logged: list[Any]) -> None:
    """Whatever the result of the load."""
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    await read_elsewhere(reading(path))
    gc.collect()  # remains of other tests
    before = open_files(), children(os.getpid())
    await read_elsewhere(reading(path))
    for read in (fake_readers.killed, fake_readers.broken):
        await wrong(Task(read))
    await wrong(reading(tmp_path / "gone.yaml"))
    await asyncio.sleep(0)
    gc.collect()  # an error that is logged can hold the pipe of its load a little longer
    assert before == (open_files(), children(os.getpid()))


async def test_a_process_that_stalls_before_any_file_is_no_problem_of_a_file() -> None:
    """The name of its thread is not shown in place of a file."""
    with pytest.raises(InvalidRules) as refused:
        await read_elsewhere(Task(fake_readers.idle), hurry=True, patience=0.2)
    assert ["configuration"] == [problem.file for problem in refused.value.problems]
