"""Starts a process that reads rules (reader.py), and takes the rules over in slices.

`subprocess` starts it on any event loop. uvloop would copy the page tables of this process, which takes 20 ms
with 300 MB; `subprocess` takes half a millisecond. The new process inherits the working directory, three
pipes, and the part of the environment that Python needs, but no sockets and no secrets. While calls are
served, it has a lower priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import structlog

from ..core.errors import InvalidRules, Problem
from ..core.rules.loaded import Loaded
from .pieces import LENGTH, Assembly, Collector, Copy, InvalidPieces, framed
from .slices import Pace
from .task import Task

COMMAND = ("-P", "-S", "-m", f"{__package__}.reader")
"""The arguments of Python. -S skips `site`, which doubles the time of the start; PYTHONPATH replaces it."""

_PACKAGES = str(Path(__file__).parents[2])
_INHERITED = {"PATH", "LANG", "TZ", "PYTHONHOME", "PYTHONUTF8", "PYTHONTZPATH", "PYTHONPYCACHEPREFIX"}
_INHERITED_PREFIXES = ("LC_", "LD_")
"""The variables about the encoding of file names, and the places of libraries, time zones and bytecode."""

_NICER = 19
"""How much lower its priority is: the maximum. With 10, calls waited twice as long."""

_LARGEST = 1 << 26
"""The most bytes of a piece. A piece has 4 kB, or as much as the metadata of one rule."""

_LAST_WORDS = 4_000
"""The last bytes of its stderr, which are logged if it ends early."""

_ENDS_WITHIN = 1.0
"""Seconds that it may take to exit."""

STALLED_AFTER = 30.0
"""Seconds without output and CPU use after which it is killed: it waits for a FIFO, or a file system."""

_FIRST_POLL, _LAST_POLL = 0.0005, 0.02
"""The shortest and the longest pause between two polls for its exit, in seconds."""

_LATE = 1.0
"""If a timer is late by so many seconds, this process itself has stalled."""

T = TypeVar("T")

_NOT_STARTED = (
    "no process can be started to read the rules: they are read in this one, which delays calls now and then"
)


async def read_elsewhere(
    task: Task, command: Sequence[str] = COMMAND, *, hurry: bool = False, patience: float = STALLED_AFTER
) -> Loaded | None:
    """Do a task in another process. Returns None, and logs a warning, if no process can do it.

    Raises InvalidRules if the rules cannot be loaded, or the process ends early or stalls for `patience`
    seconds. In a `hurry`, the process has normal priority, and an early end returns None, because there are
    no previous rules to keep. When this returns, raises or is cancelled, the process has ended, unless it
    hangs in the kernel.
    """
    return await _elsewhere(Assembly(), task, command, hurry=hurry, patience=patience)


async def pieces_elsewhere(task: Task, *, hurry: bool = False) -> tuple[bytes, ...] | None:
    """Do a task in another process, and return the pieces of its result, as `read_elsewhere` does."""
    return await _elsewhere(Copy(), task, COMMAND, hurry=hurry, patience=STALLED_AFTER)


async def _elsewhere(
    result: Collector[T], task: Task, command: Sequence[str], *, hurry: bool, patience: float
) -> T | None:
    log = structlog.get_logger(__name__)
    try:
        process = _start(command, 0 if hurry else _NICER, task.files)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(_NOT_STARTED, error=str(error))
        return None
    pipes = _Pipes(process, patience)
    try:
        return await pipes.run(result, task, Pace(0) if hurry else Pace())
    except asyncio.IncompleteReadError:
        code = await _ended(process, _ENDS_WITHIN)
        said = await pipes.last_words()
        if hurry or (code >= 0 and not pipes.began):
            log.warning(_NOT_STARTED, code=code, said=said)
            return None
        log.error("the process that reads the rules ended early", code=code, said=said)
        _fail(f"the process that reads it {_how(code)}")
    except InvalidPieces as error:
        log.error("the process that reads the rules sent invalid data", error=str(error))
        _fail("the process that reads it sent invalid data")
    except _Stalled:
        where = await pipes.busy_with()
        log.error("the rules cannot be read: a file does not answer", file=where, seconds=patience)
        _fail(f"it did not answer for {patience:g} s", where)
    except OSError as error:  # no file descriptors for the pipes
        log.error("the pipes to the process that reads the rules failed", error=str(error))
        _fail(f"the pipes to the process that reads it failed: {error.strerror or error}")
    finally:
        process.kill()  # before any await, which may be cancelled again
        try:
            pipes.close()
        finally:
            await _ended(process, _ENDS_WITHIN)


def _start(command: Sequence[str], nicer: int, files: Sequence[int]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603  # Python itself
        [sys.executable or "python3", *command],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(_environment()),
        # So that Ctrl-C reaches only this process, which then kills that one. With Linux's sched_autogroup,
        # CPU time is divided by session, and not by priority.
        start_new_session=True,
        pass_fds=files,
    )
    with contextlib.suppress(OSError):  # it has ended, or this is not permitted
        # From here, so that its start has low priority, too. Popen has returned, so nothing waits for it any
        # more.
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, process.pid, min(19, own + nicer))
    return process


def _environment() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES):
            yield name, value
    # The path of this package comes last. It may have been imported through a hook of `site`, without a path.
    yield "PYTHONPATH", os.pathsep.join([*map(os.path.abspath, sys.path), _PACKAGES])
    if sys.dont_write_bytecode:
        yield "PYTHONDONTWRITEBYTECODE", "1"


async def _ended(process: subprocess.Popen[bytes], patience: float) -> int:
    """Wait for its exit, and kill it after `patience` seconds. Returns its exit code, negative for a signal.

    Even SIGKILL does not end a process that hangs in the kernel. After as many seconds again, it is left
    alone; Python reaps it when it starts the next one.
    """
    loop = asyncio.get_running_loop()
    for due in (loop.time() + patience, loop.time() + 2 * patience):
        pause = _FIRST_POLL
        while True:
            code = process.poll()
            if code is not None:
                return code
            if loop.time() >= due:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_POLL)
        process.kill()
    return -signal.SIGKILL


def _how(code: int) -> str:
    if code >= 0:
        return f"ended early, with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as happens if memory runs out" if name == "SIGKILL" else "")


def _fail(why: str, what: str = "configuration") -> NoReturn:
    message = f"could not be read: {why}. A retry follows soon, and when a file changes"
    raise InvalidRules([Problem(what, 0, "", message)], again=True) from None


def _used(process: subprocess.Popen[bytes]) -> str:
    """Return its CPU time as text for comparisons; empty if the system does not have it."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return " ".join(fields[11:13])  # in user mode, in the kernel


class _Stalled(Exception):
    """The process has stalled."""


class _LastWords(asyncio.Protocol):
    """Reads stderr, so that the pipe never fills up, and keeps its end."""

    def __init__(self) -> None:
        self.text = b""
        self.complete = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.text = (self.text + data)[-_LAST_WORDS:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.complete.set()


class _Pipes:
    """The pipes to the process."""

    def __init__(self, process: subprocess.Popen[bytes], patience: float) -> None:
        self.began = False
        """Whether the process has begun to read."""
        self._process = process
        self._patience = patience
        assert process.stdin and process.stdout and process.stderr
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._pieces = asyncio.StreamReader()
        self._words = _LastWords()
        self._open: list[asyncio.BaseTransport] = []

    async def run(self, result: Collector[T], task: Task, pace: Pace) -> T:
        """Do a task, and return what `result` makes of the pieces.

        Raises InvalidRules, InvalidPieces, _Stalled, OSError; IncompleteReadError after its exit.
        """
        await self._connect(task)
        while not result.complete:
            length = int.from_bytes(await self._read(LENGTH), "big")
            if length > _LARGEST:
                raise InvalidPieces(f"a piece of {length} bytes")
            for _ in result.add(await self._read(length)):
                if pace.over:
                    await pace.breathe()
            self.began = True
        return result.result()

    async def _connect(self, task: Task) -> None:
        """Send the task. Stdin stays open: closing it cancels the task."""
        loop = asyncio.get_running_loop()
        pieces = asyncio.StreamReaderProtocol(self._pieces)
        self._open.append((await loop.connect_read_pipe(lambda: pieces, self._stdout))[0])
        self._open.append((await loop.connect_read_pipe(lambda: self._words, self._stderr))[0])
        self._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._stdin)
        self._open.append(self._input)
        self._input.write(framed(pickle.dumps(task)))

    async def _read(self, length: int) -> bytes:
        """Read `length` bytes. The process may take any time as long as it works."""
        loop = asyncio.get_running_loop()
        used: str | None = None
        while True:
            due = loop.time() + self._patience / 2
            try:
                async with asyncio.timeout_at(due):
                    return await self._pieces.readexactly(length)
            except TimeoutError:
                before, used = used, _used(self._process)
                if used == before and loop.time() - due < _LATE:
                    raise _Stalled from None

    async def busy_with(self) -> str:
        """Return the name of the file that the process waits for. It ends the process."""
        with contextlib.suppress(OSError, RuntimeError):
            self._input.write(b"?")
        return await self.last_words() or "configuration"

    async def last_words(self) -> str:
        """Return the end of its stderr."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._words.complete.wait(), _ENDS_WITHIN)
        return self._words.text.decode(errors="backslashreplace")

    def close(self) -> None:
        """Close all pipes. The event loop closes those that were connected to it."""
        for transport in self._open:
            transport.close()
        for pipe in (self._stdout, self._stderr, self._stdin)[len(self._open) :]:
            with contextlib.suppress(OSError):  # uvloop closes a pipe that it fails to connect
                pipe.close()
