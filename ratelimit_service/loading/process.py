"""Has rules read by a process of its own (reader.py), of lower priority where calls are waiting, and takes them over in slices.

It is started by `subprocess` on every event loop: uvloop would copy the page tables of this process for it, which takes 20 ms
with 300 MB, where `subprocess` takes half a millisecond. It inherits the working directory and three pipes, and of the
environment what Python needs: no sockets, and no secrets.
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
from typing import NoReturn

import structlog

from ..core.errors import InvalidRules, Problem
from ..core.rules.reader import Loaded
from .pieces import LENGTH, Assembly, Nonsense, framed
from .slices import Pace
from .task import Task

COMMAND = ("-P", "-S", "-m", f"{__package__}.reader")
"""Arguments of Python. Without `site`, which looks for what PYTHONPATH names already, and takes as long as all of Python else."""

_PACKAGES = str(Path(__file__).parents[2])
_PASSED_ON = {"PATH", "LANG", "TZ", "PYTHONHOME", "PYTHONUTF8", "PYTHONTZPATH", "PYTHONPYCACHEPREFIX"}
_PASSED_ON_TOO = ("LC_", "LD_")
"""In which language file names are, where libraries, time zones and bytecode are."""

_NICER = 19
"""By how much its priority is lower: as much as can be. With 10, calls waited for it twice as long."""

_LARGEST = 1 << 26
"""Bytes of a piece; a larger one is none. Pieces have 4 kB, or as much as the metadata of a rule have."""

_LAST_WORDS = 4_000
"""Bytes of what it has written to stderr that are logged where it has ended early."""

_ENDS_WITHIN = 1.0
"""Seconds in which it ends by itself, once it has nothing more to say."""

_NOT_STARTED = "no process can read the rules: they are read in this one, and calls wait now and then"


async def read_elsewhere(
    task: Task, command: Sequence[str] = COMMAND, *, hurry: bool = False
) -> Loaded | None:
    """Do a task in another process; None where there cannot be one, which is logged. In a `hurry`, it gives way to nobody.

    Raises InvalidRules where the rules cannot be loaded, and where the process ended before it had said all of them; but in a
    hurry there are no others to go on with, and that is None as well. When this returns, raises or is cancelled, the process has
    ended.
    """
    log = structlog.get_logger(__name__)
    try:
        process = _start(command, 0 if hurry else _NICER)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(_NOT_STARTED, error=str(error))
        return None
    talk = _Talk(process)
    try:
        return await talk.about(task, Pace(0) if hurry else Pace())
    except asyncio.IncompleteReadError:
        code = await asyncio.to_thread(_ended, process, _ENDS_WITHIN)
        said = await talk.last_words()
        if hurry or (code >= 0 and not talk.began):
            log.warning(_NOT_STARTED, code=code, said=said)
            return None
        log.error("the process that reads the rules ended early", code=code, said=said)
        _fail(_how(code))
    except Nonsense as error:
        log.error("the process that reads the rules sent something else", error=str(error))
        _fail("sent something else")
    finally:
        process.kill()  # before anything is awaited, which may be cancelled again
        try:
            talk.close()
        finally:
            await asyncio.to_thread(_ended, process, 0)


def _start(command: Sequence[str], nicer: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603  # Python itself
        [sys.executable or "python3", *command],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(_environment()),
        # Ctrl-C is for this process, which then ends that one. Where Linux shares cores out by session (sched_autogroup), that
        # counts in place of the priority.
        start_new_session=True,
    )
    with contextlib.suppress(OSError):  # gone already, or not permitted
        # From here, so that it gives way while it is still starting; not before, because until then this process waits for it.
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, process.pid, min(19, own + nicer))
    return process


def _environment() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if name in _PASSED_ON or name.startswith(_PASSED_ON_TOO):
            yield name, value
    # Where this package is, because it may be found by a hook of `site` and not by a path; behind Python's own modules.
    yield "PYTHONPATH", os.pathsep.join([*map(os.path.abspath, sys.path), _PACKAGES])
    if sys.dont_write_bytecode:
        yield "PYTHONDONTWRITEBYTECODE", "1"


def _ended(process: subprocess.Popen[bytes], patience: float) -> int:
    """Wait until it has ended, which it is made to after so many seconds. Its exit code; that of a signal is negative."""
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended early, with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as happens where memory runs out" if name == "SIGKILL" else "")


def _fail(what: str) -> NoReturn:
    message = f"could not be read: the process that reads it {what}. It is read again when a file changes or is touched"
    raise InvalidRules([Problem("configuration", 0, "", message)]) from None


class _LastWords(asyncio.Protocol):
    """Reads what is written to stderr, so that nobody waits for room there, and keeps the end of it."""

    def __init__(self) -> None:
        self.text = b""
        self.complete = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.text = (self.text + data)[-_LAST_WORDS:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.complete.set()


class _Talk:
    """The pipes to such a process, and what goes through them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.began = False
        """Whether it has begun to read."""
        assert process.stdin and process.stdout and process.stderr
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._pieces = asyncio.StreamReader()
        self._words = _LastWords()
        self._open: list[asyncio.BaseTransport] = []

    async def about(self, task: Task, pace: Pace) -> Loaded:
        """What becomes of the task. Raises InvalidRules; IncompleteReadError where it has ended, Nonsense."""
        await self._connect(task)
        rules = Assembly()
        while not rules.complete:
            length = int.from_bytes(await self._pieces.readexactly(LENGTH), "big")
            if length > _LARGEST:
                raise Nonsense(f"a piece of {length} bytes")
            for _ in rules.add(await self._pieces.readexactly(length)):
                if pace.over:
                    await pace.breathe()
            self.began = True
        return rules.result()

    async def _connect(self, task: Task) -> None:
        """Give the task. Stdin stays open after it: that it is closed tells the process that nobody waits for it."""
        loop = asyncio.get_running_loop()
        pieces = asyncio.StreamReaderProtocol(self._pieces)
        self._open.append((await loop.connect_read_pipe(lambda: pieces, self._stdout))[0])
        self._open.append((await loop.connect_read_pipe(lambda: self._words, self._stderr))[0])
        stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._stdin)
        self._open.append(stdin)
        stdin.write(framed(pickle.dumps(task)))

    async def last_words(self) -> str:
        """The end of what it has written to stderr."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._words.complete.wait(), _ENDS_WITHIN)
        return self._words.text.decode(errors="backslashreplace")

    def close(self) -> None:
        """Close what is open; a pipe that was given to the event loop by that."""
        for transport in self._open:
            transport.close()
        for pipe in (self._stdout, self._stderr, self._stdin)[len(self._open) :]:
            with contextlib.suppress(OSError):  # uvloop has closed the one that it was just being given
                pipe.close()
