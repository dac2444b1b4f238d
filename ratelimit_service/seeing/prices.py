"""Prices by model, from a file that is read again when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from ..core.errors import InvalidRules, StartError
from ..core.ledger.price import NO_PRICES, ModelPrices
from ..ports import Clock
from ..runtime.threads import StuckError, Thread

SETTING = "PRICES_FILE"

_LOOKED_EVERY = 1.0
"""Seconds between two checks of the file."""

_ANSWERS_WITHIN = 2.0
"""Seconds that a file system has to answer."""

MOST_BYTES = 1_048_576
"""The largest file: some 15,000 prices."""

Read = Callable[[str, bytes], ModelPrices]
"""Reads the text of a file of this name. Raises InvalidRules."""


class Prices:
    """The prices in a file; none without one. A file that becomes unusable leaves the prices that it had."""

    def __init__(self, file: str = "", read: Read | None = None, clock: Clock = time.monotonic) -> None:
        self._file = Path(file)
        self._read = read
        self._clock = clock
        self._looked = clock()
        self._seen: tuple[int, ...] = ()
        self._files = Thread(f"looking for changes of {SETTING}")
        self._log = structlog.get_logger("ratelimit_service")
        self.models = NO_PRICES
        if read is not None and (problem := self._take_over(read)):
            raise StartError(f"{SETTING} cannot be used: {problem}")

    async def look(self) -> None:
        """Read the file again if it has changed."""
        read = self._read
        if read is None or self._clock() < self._looked + _LOOKED_EVERY:
            return
        self._looked = self._clock()
        before = self.models
        try:
            problem = await self._files.do(lambda: self._take_over(read), _ANSWERS_WITHIN)
        except StuckError as error:
            problem = str(error)
        if problem:
            self._log.error("the file of prices cannot be used: those before stay in force", error=problem)
        elif self.models is not before:
            self._log.info("prices were read again", file=str(self._file))

    def _take_over(self, read: Read) -> str:
        """Use the prices in the file, and return what is wrong with it, once for each state of the file."""
        seen: tuple[int, ...] = (0,)
        try:
            found = self._file.stat()
            seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return ""
            with self._file.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
            if len(text) > MOST_BYTES:
                problem = f"{self._file} is longer than {MOST_BYTES} bytes"
            else:
                self.models, problem = read(str(self._file), text), ""
        except OSError as error:
            problem = f"{self._file} cannot be read: {error.strerror or error}"
        except InvalidRules as error:
            problem = str(error)
        before, self._seen = self._seen, seen
        return "" if before == seen else problem
