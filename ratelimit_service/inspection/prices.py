"""Prices by model, from a file that is read again when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from ..core.errors import InvalidRules, StartError
from ..core.ledger.price import NO_PRICES, ModelPrices
from ..ports import Clock
from ..runtime.threads import StuckError
from ..runtime.watched_file import LARGEST, WatchedFile

SETTING = "PRICES_FILE"

Read = Callable[[str, bytes], ModelPrices]
"""Reads the text of a file of this name. Raises InvalidRules."""


class Prices:
    """The prices in a file; none without one. A file that becomes unusable leaves the prices that it had."""

    def __init__(self, file: str = "", read: Read | None = None, clock: Clock = time.monotonic) -> None:
        self._file = file
        self._watched: WatchedFile | None = None
        self._log = structlog.get_logger("ratelimit_service")
        self.models = NO_PRICES
        if read is not None:
            self._watched = WatchedFile(file, SETTING, LARGEST, partial(self._use, read), clock)
            if problem := self._watched.read():
                raise StartError(f"{SETTING} cannot be used: {problem}")

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        if self._watched is None:
            return
        before = self.models
        try:
            problem = await self._watched.refresh()
        except StuckError as error:
            problem = str(error)
        if problem:
            self._log.error(
                "the file of prices cannot be used: the previous prices stay in force", error=problem
            )
        elif self.models is not before:
            self._log.info("prices were read again", file=self._file)

    def _use(self, read: Read, content: bytes | None) -> str:
        if content is None:
            return ""
        if len(content) > LARGEST:
            return f"{self._file} is longer than {LARGEST} bytes"
        try:
            self.models = read(self._file, content)
        except InvalidRules as error:
            return str(error)
        return ""
