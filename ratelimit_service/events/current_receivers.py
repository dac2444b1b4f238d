"""The receivers of the settings, read again when their file or one of their secrets changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from ..core.errors import StartError
from .receivers import receivers_of


class CurrentReceivers:
    """The receivers of EVENTS_WEBHOOK_URL (`urls`) and EVENTS_WEBHOOKS (`file`). Raises StartError if they cannot be used.

    A file that cannot be used later leaves the receivers as they were, and is tried again at each look.
    """

    def __init__(self, urls: Sequence[str], secret_file: str, file: str) -> None:
        self._settings = urls, secret_file, file
        self._file = file
        self._log = structlog.get_logger("ratelimit_service.events")
        self._refused = ""
        self.receivers = receivers_of(*self._settings)
        self._seen = self._contents()

    def look(self) -> bool:
        """Read changed files, and return whether the receivers have changed. Blocks: call it in a thread."""
        if not self._file:  # addresses do not change, and their secret is read at each delivery
            return False
        contents = self._contents()
        if contents == self._seen:
            return False
        try:
            receivers = receivers_of(*self._settings)
        except StartError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                self._log.error(
                    "receivers of events cannot be read, and those before stay in use", error=self._refused
                )
            return False
        self._refused = ""
        self._seen = contents
        changed = receivers != self.receivers
        self.receivers = receivers
        if changed:
            self._log.info("receivers of events have changed", receivers=[each.name for each in receivers])
        return changed

    def _contents(self) -> list[bytes | None]:
        """Return what the file and the secrets contain; None for one that cannot be read."""
        files = [self._file, *[each.secret_file for each in self.receivers if each.secret_file]]
        return [_read(file) for file in files if file]


def _read(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes()
    except OSError:
        return None
