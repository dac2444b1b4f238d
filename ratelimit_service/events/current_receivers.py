"""The receivers of the settings, read again when their file or one of their secrets changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from ..core.errors import StartError
from ..runtime.watched_file import State, state_or_missing
from .receivers import Receiver, Unreadable, check_secrets, read_receivers


class CurrentReceivers:
    """The receivers of EVENTS_WEBHOOK_URL (`urls`) and EVENTS_WEBHOOKS (`file`). Raises StartError if they
    cannot be used.

    A file that becomes unusable later leaves the receivers as they were. Each check only reads the state of
    the files, and then reads files that have changed or could not be read before.
    """

    def __init__(self, urls: Sequence[str], secret_file: str, file: str) -> None:
        self._settings = urls, secret_file, file
        self._file = file
        self._log = structlog.get_logger("ratelimit_service.events")
        self._refused = ""
        self._seen: State | None = None
        self._seen_secrets: list[State] | None = None
        self._found: tuple[Receiver, ...] | None = None
        """The receivers in the file, whose secrets may be unusable; None for an invalid file."""
        self.receivers: tuple[Receiver, ...] = ()
        self._read()

    def refresh(self) -> bool:
        """Read changed files, and return whether the receivers have changed. Blocks: call it in a thread."""
        if not self._file:  # addresses do not change, and their secret is read at each delivery
            return False
        before = self.receivers
        try:
            self._read()
        except StartError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                self._log.error(
                    "receivers of events cannot be read: the previous receivers stay in use",
                    error=self._refused,
                )
            return False
        if self.receivers == before:
            return False
        self._log.info("receivers of events have changed", receivers=[each.name for each in self.receivers])
        return True

    def _read(self) -> None:
        """Read what has changed since the last call. Raises StartError, once for each state of the files."""
        seen = state_or_missing(Path(self._file)) if self._file else ()
        if seen != self._seen:
            self._seen, self._seen_secrets, self._found = seen, None, None
            try:
                self._found = read_receivers(*self._settings)
            except Unreadable:
                self._seen = None
                raise
        if self._found is None:
            return
        secrets = [state_or_missing(Path(each.secret_file)) for each in self._found if each.secret_file]
        if secrets == self._seen_secrets:
            return
        self._seen_secrets = secrets
        try:
            check_secrets(self._found)
        except Unreadable:
            self._seen_secrets = None
            raise
        self._refused = ""
        self.receivers = self._found
