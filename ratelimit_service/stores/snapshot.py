"""A memory store that keeps its counters in a file: read at the start, written regularly and at the end.

The file:

    ratelimit-service counters 2
    {token-budgets|team=dba}:hour:2026-11-21T01Z<tab>4211<tab>2871
    end 1 <SHA-256 of all lines before this one, in hex>

There is a line for each counter: its key, its value, and in how many seconds it expires. If there have ever
been amendments, lines of JSON with their records follow (amendments.py), and the version is 3. One rename
replaces the file, so a reader finds all counters of one moment.

The file has no absolute times, because the clock may be wrong when it is written or read: dropping a counter
before its window is over would free an exhausted bucket. A counter that is kept for too long only takes
memory, because its window is in its key. Version 1 had the second since 1970 at which a counter expired.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import structlog

from ..core.amendments.records import Unreadable
from ..core.errors import RateLimitServiceError, StartError
from ..core.model import COUNTER_MAX
from ..ports import Clock
from ..runtime.locks import locked
from .dump import Counter
from .memory import DEFAULT_SIZE, MemoryStore

VERSION = 3
"""The version of the file. A change of the grammar of counter keys is a new version as well."""

_WITHOUT_AMENDMENTS = 2
"""The version that is written if there are no amendments, so that an older service can read the file."""

_WITH_MOMENTS = 1
"""The first version, which this service can still read."""

_HEADER = re.compile(rb"ratelimit-service counters ([0-9]{1,9})\n")
_END = re.compile(rb"end ([0-9]{1,12}) ([0-9a-f]{64})\n")
_OUTDATED = 60.0
"""Seconds after which `close` writes the file even if no counter has changed, because times to live have."""

_LINES_AT_ONCE = 500
"""Lines between two system calls; the event loop's thread can run during a system call."""


class Contents(NamedTuple):
    """What is in a file."""

    counters: list[Counter]
    amendments: list[str]
    """Lines of MemoryAmendments.lines."""


class Unusable(RateLimitServiceError):
    """The file is not a snapshot that this version can load; the message completes "the snapshot ..."."""


def write(
    path: Path, counters: Iterable[Counter], now: float, amendments: Iterator[str] | None = None
) -> None:
    """Replace the file by one with these counters as of `now`, which only this user can read.

    Raises OSError.
    """
    version = _WITHOUT_AMENDMENTS if amendments is None else VERSION
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            digest, count = hashlib.sha256(), 0
            counters = (counter for counter in counters if counter.expiry > now)
            chunk = f"ratelimit-service counters {version}\n".encode()
            while chunk:
                digest.update(chunk)
                file.write(chunk)
                lines = [
                    f"{_escaped(key)}\t{value}\t{math.ceil(end - now)}\n"
                    for key, value, end in islice(counters, _LINES_AT_ONCE)
                ]
                count += len(lines)
                chunk = "".join(lines).encode("ascii")
            while amendments is not None and (lines := list(islice(amendments, _LINES_AT_ONCE))):
                chunk = "".join([f"{line}\n" for line in lines]).encode("ascii")
                digest.update(chunk)
                file.write(chunk)
            file.write(f"end {count} {digest.hexdigest()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename is on the disk once the directory is.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(path: Path, now: float = 0.0, wall: float = 0.0) -> Contents:
    """Return what is in the file, for a store whose clock says `now`. Raises OSError, or Unusable.

    `wall` is the time since 1970, which version 1 needs.
    """
    data = path.read_bytes()
    header = _HEADER.match(data)
    if header is None:
        raise Unusable("is not a snapshot of counters")
    version = int(header[1])
    if version not in (VERSION, _WITHOUT_AMENDMENTS, _WITH_MOMENTS):
        raise Unusable(f"is of version {version}, and this is a service that reads version {VERSION}")
    end = _END.fullmatch(data, data.rfind(b"\n", 0, -1) + 1)
    if end is None:
        raise Unusable("is cut off: its last line is not there")
    if hashlib.sha256(data[: end.start()]).hexdigest().encode() != end[2]:
        raise Unusable("is damaged: its checksum is not that of what is in it")
    try:
        lines = data[header.end() : end.start()].decode("ascii").split("\n")[:-1]
        amendments = lines[int(end[1]) :] if version == VERSION else []
        counters = list(_parsed(lines[: len(lines) - len(amendments)]))
        base = math.ceil(now - wall) if version == _WITH_MOMENTS else math.ceil(now)
        counters = [counter._replace(expiry=base + counter.expiry) for counter in counters]
    except ValueError as error:
        raise Unusable(f"is damaged: {error}") from None
    if len(counters) != int(end[1]):
        raise Unusable(f"is damaged: it has {len(counters)} counters in place of {int(end[1])}")
    return Contents(counters, amendments)


def _parsed(lines: Iterable[str]) -> Iterator[Counter]:
    for line in lines:
        key, value, end = line.split("\t")
        counter = Counter(_unescaped(key), int(value), int(end))
        if not 0 <= counter.value <= COUNTER_MAX:
            raise ValueError("a counter has a value that no counter can have")
        yield counter


def _escaped(key: str) -> str:
    """Return a key as ASCII in one line.

    Keys are that by their grammar, but CACHE_KEY_PREFIX may be any text.
    """
    plain = key.isascii() and key.isprintable() and "\\" not in key
    return key if plain else key.encode("unicode_escape").decode("ascii")


def _unescaped(text: str) -> str:
    return text.encode("ascii").decode("unicode_escape") if "\\" in text else text


class KeptMemoryStore(MemoryStore):
    """A MemoryStore whose counters survive a restart: they are kept in the file `path`.

    `start` loads the file. After that it is written every `interval` seconds if a counter has changed, and by
    `close`. A process that is killed loses what it counted since it began to write the last file: at most
    `interval`, and the time that writing takes. An unusable file is moved aside, under another name in the
    same directory. `clock` is monotonic, `wall` is the time since 1970.
    """

    def __init__(
        self,
        clock: Clock,
        path: Path,
        interval: float,
        size: int = DEFAULT_SIZE,
        wall: Clock = time.time,
    ) -> None:
        super().__init__(clock, size)
        self._wall = wall
        self._path = path
        self._interval = interval
        self._lock = -1
        self._written = 0.0
        """When the counters in the file were read, by the store's clock."""
        self._stopping = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._failing = False
        self._log = structlog.get_logger("ratelimit_service.snapshot")
        self.failures = 0
        """How often writing the counters has failed."""

    async def start(self) -> None:
        """Load the counters, and keep them from now on.

        Raises StartError where the file cannot be read and written.
        """
        try:
            # The lock is a file of its own: each rename replaces the snapshot by another file.
            self._lock = locked(self._path.with_name(f"{self._path.name}.lock"))
            contents = await asyncio.to_thread(self._read)
            self.load(contents.counters)
            await asyncio.to_thread(self._load_amendments, contents.amendments)
            await asyncio.to_thread(write, self._path, self.dump(), self._clock(), self.amendments.lines())
        except BlockingIOError:
            raise StartError(
                f"MEMORY_SNAPSHOT_PATH: another process keeps its counters in {self._path}: "
                "give each a file of its own"
            ) from None
        except OSError as error:
            raise StartError(
                f"MEMORY_SNAPSHOT_PATH: counters cannot be kept in {self._path}: {error.strerror or error}: "
                "give a file in a directory in which this user may create files"
            ) from None
        self.changed = self.amendments.changed = False
        self._written = self._clock()
        self._writer = asyncio.create_task(self._write_regularly())

    async def close(self) -> None:
        """Write the counters if they have changed, and release the file."""
        if self._writer is not None:
            self._stopping.set()
            await self._writer
            self._writer = None
            if self._has_changed or (self and self._clock() >= self._written + _OUTDATED):
                await self._write()
            if self._has_changed:
                self._log.error("counters since the last snapshot are lost", path=str(self._path))
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load_amendments(self, lines: Sequence[str]) -> None:
        try:
            self.amendments.load(lines)
        except Unreadable as error:  # of a later version
            self.amendments.load(())
            self._log.error(
                "the amendments in the snapshot cannot be read", path=str(self._path), error=str(error)
            )

    def _read(self) -> Contents:
        started = time.perf_counter()
        try:
            contents = read(self._path, self._clock(), self._wall())
        except FileNotFoundError:
            self._log.info("no counters have been kept yet", path=str(self._path))
            return Contents([], [])
        except Unusable as error:
            aside = self._path.with_name(f"{self._path.name}.unusable-{int(self._wall())}")
            self._path.replace(aside)
            self._log.error(
                f"the snapshot {error}: it is set aside, and all counters begin at 0",
                path=str(self._path),
                set_aside=str(aside),
            )
            return Contents([], [])
        seconds = round(time.perf_counter() - started, 3)
        self._log.info(
            "counters loaded", path=str(self._path), counters=len(contents.counters), seconds=seconds
        )
        return contents

    async def _write_regularly(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._interval)
                return
            if self._has_changed:
                await self._write()

    @property
    def _has_changed(self) -> bool:
        return self.changed or self.amendments.changed

    async def _write(self) -> None:
        self.changed = self.amendments.changed = False
        now = self._clock()
        try:
            await asyncio.to_thread(write, self._path, self.dump(), now, self.amendments.lines())
        except Exception as error:  # the service continues, and the next attempt may succeed
            self.changed = True
            self.failures += 1
            if not self._failing:
                self._log.error("the counters cannot be written", path=str(self._path), error=str(error))
            self._failing = True
        else:
            self._written = now
            if self._failing:
                self._log.info("the counters are written again", path=str(self._path))
            self._failing = False
