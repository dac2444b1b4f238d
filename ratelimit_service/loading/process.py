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

STANDS_STILL = 30.0
"""Seconds without a byte and without any use of the CPU after which it is given up: a FIFO, a file system that does not answer."""

_FIRST_LOOK, _LAST_LOOK = 0.0005, 0.02
"""Seconds between two looks at whether it has ended: from, to."""

_LATE = 1.0
"""Seconds beyond its time after which a timer says that this process itself stood still."""

_NOT_STARTED = "no process can read the rules: they are read in this one, and calls wait now and then"


async def read_elsewhere(
    task: Task, command: Sequence[str] = COMMAND, *, hurry: bool = False, patience: float = STANDS_STILL
) -> Loaded | None:
    """Do a task in another process; None where there cannot be one, which is logged. In a `hurry`, it gives way to nobody.

    Raises InvalidRules where the rules cannot be loaded, where the process ended before it had said all of them, and where it
    stands still for `patience` seconds; but in a hurry there are no others to go on with, and an early end is None as well. When
    this returns, raises or is cancelled, the process has ended, unless it hangs within the kernel and will end when it returns.
    """
    log = structlog.get_logger(__name__)
    try:
        process = _start(command, 0 if hurry else _NICER, task.files)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(_NOT_STARTED, error=str(error))
        return None
    talk = _Talk(process, patience)
    try:
        return await talk.about(task, Pace(0) if hurry else Pace())
    except asyncio.IncompleteReadError:
        code = await _ended(process, _ENDS_WITHIN)
        said = await talk.last_words()
        if hurry or (code >= 0 and not talk.began):
            log.warning(_NOT_STARTED, code=code, said=said)
            return None
        log.error("the process that reads the rules ended early", code=code, said=said)
        _fail(f"the process that reads it {_how(code)}")
    except Nonsense as error:
        log.error("the process that reads the rules sent something else", error=str(error))
        _fail("the process that reads it sent something else")
    except _StandsStill:
        where = await talk.busy_with()
        log.error("the rules cannot be read: a file does not answer", file=where, seconds=patience)
        _fail(f"it does not answer: reading it has been given up after {patience:g} s", where)
    except OSError as error:  # no descriptor left for the pipes
        log.error("the process that reads the rules cannot be spoken to", error=str(error))
        _fail(f"the process that reads it cannot be spoken to: {error.strerror or error}")
    finally:
        process.kill()  # before anything is awaited, which may be cancelled again
        try:
            talk.close()
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
        # Ctrl-C is for this process, which then ends that one. Where Linux shares cores out by session (sched_autogroup), that
        # counts in place of the priority.
        start_new_session=True,
        pass_fds=files,
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


async def _ended(process: subprocess.Popen[bytes], patience: float) -> int:
    """Wait until it has ended, which it is made to after so many seconds; its exit code, negative for a signal.

    A process that hangs within the kernel does not end by SIGKILL either. It is left alone after as many seconds again, and
    Python takes note of its end when it starts the next one.
    """
    loop = asyncio.get_running_loop()
    for due in (loop.time() + patience, loop.time() + 2 * patience):
        pause = _FIRST_LOOK
        while True:
            code = process.poll()
            if code is not None:
                return code
            if loop.time() >= due:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)
        process.kill()
    return -signal.SIGKILL


def _how(code: int) -> str:
    if code >= 0:
        return f"ended early, with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as happens where memory runs out" if name == "SIGKILL" else "")


def _fail(why: str, what: str = "configuration") -> NoReturn:
    message = f"could not be read: {why}. It is read again soon, and when a file changes"
    raise InvalidRules([Problem(what, 0, "", message)], again=True) from None


def _used(process: subprocess.Popen[bytes]) -> str:
    """How much CPU time it has used, for comparison; always the same where the system does not say."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return " ".join(fields[11:13])  # in user mode, in the kernel


class _StandsStill(Exception):
    """Nothing has come of it for too long."""


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

    def __init__(self, process: subprocess.Popen[bytes], patience: float) -> None:
        self.began = False
        """Whether it has begun to read."""
        self._process = process
        self._patience = patience
        assert process.stdin and process.stdout and process.stderr
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._pieces = asyncio.StreamReader()
        self._words = _LastWords()
        self._open: list[asyncio.BaseTransport] = []

    async def about(self, task: Task, pace: Pace) -> Loaded:
        """What becomes of the task. Raises InvalidRules; IncompleteReadError where it has ended, Nonsense, _StandsStill, OSError."""
        await self._connect(task)
        rules = Assembly()
        while not rules.complete:
            length = int.from_bytes(await self._read(LENGTH), "big")
            if length > _LARGEST:
                raise Nonsense(f"a piece of {length} bytes")
            for _ in rules.add(await self._read(length)):
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
        self._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._stdin)
        self._open.append(self._input)
        self._input.write(framed(pickle.dumps(task)))

    async def _read(self, length: int) -> bytes:
        """So many bytes, for which it may take as long as it likes while it works."""
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
                    raise _StandsStill from None

    async def busy_with(self) -> str:
        """The file that it waits for, as it says itself; it ends with that."""
        with contextlib.suppress(OSError, RuntimeError):
            self._input.write(b"?")
        return await self.last_words() or "configuration"

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
