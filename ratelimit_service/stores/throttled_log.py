"""Logs what a store refuses at most once a minute."""

from __future__ import annotations

import math
import time

import structlog

BETWEEN_LINES = 60.0
"""Seconds between two lines about the same."""

ENTRIES_MISSING = "entries of ledgers are missing: Redis refuses to write them"
HOLDS_MISSING = "holds are not kept: Redis refuses to read or write them"


class ThrottledLog:
    """The lines of one store. Each event is logged when it begins, and at most once a minute from then on."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("ratelimit_service.store")
        self._logged: dict[str, float] = {}

    def error(self, event: str, **values: object) -> None:
        """Log an event, unless it was logged within the last minute."""
        now = time.monotonic()
        if now - self._logged.get(event, -math.inf) >= BETWEEN_LINES:
            self._logged[event] = now
            self._log.error(event, **values)
