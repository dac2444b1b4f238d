"""Tokens of callers: from the settings, or from files that are read again when they change."""

from __future__ import annotations

import enum
import hashlib
import hmac
import time

import structlog

from ..core.errors import StartError
from ..ports import Clock
from ..runtime.threads import StuckError
from ..runtime.watched_file import WatchedFile
from ..settings.api import LONGEST, SHORTEST, usable_token

_MOST_BYTES = 4_096
"""Bytes of a file that are read: a token is shorter."""


class Role(enum.IntEnum):
    """The rights of a caller; a higher role has those of the lower ones."""

    LOCAL = 0
    """On loopback without a token: read."""
    READ = 1
    ADMIN = 2
    """Read, and change limits."""


class Token:
    """One token. `digest` is None while there is none: then no caller has it.

    A file that is missing, empty or unusable lets no caller in; one that does not answer leaves the token as
    it was.
    """

    def __init__(self, setting: str, given: str = "", file: str = "", clock: Clock = time.monotonic) -> None:
        self._setting = setting
        self._file = file
        self._log = structlog.get_logger("ratelimit_service.api")
        self.digest = _digest(given.encode()) if given else None
        self._watched: WatchedFile | None = None
        if file:
            watched = WatchedFile(file, f"{setting}_FILE", _MOST_BYTES, self._use, clock)
            if problem := watched.read():
                raise StartError(f"{setting}_FILE cannot be used: {problem}")
            self._watched = watched

    @property
    def wanted(self) -> bool:
        """Whether the settings name this token."""
        return self.digest is not None or self._watched is not None

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        if self._watched is None:
            return
        try:
            problem = await self._watched.refresh()
        except StuckError as error:
            self._log.error("a file does not answer: the previous token stays valid", error=str(error))
            return
        if problem:
            self._log.error(
                "a token cannot be read: no caller has it", setting=f"{self._setting}_FILE", error=problem
            )

    def _use(self, content: bytes | None) -> str:
        text = (content or b"").decode("latin-1").strip("\r\n")
        if not usable_token(text):
            self.digest = None
            return (
                f"{self._file} does not have {SHORTEST} to {LONGEST} printable ASCII characters without "
                "spaces"
            )
        self.digest = _digest(text.encode())
        if self._watched is not None:  # not the first time
            self._log.info("a token was read again", setting=f"{self._setting}_FILE")
        return ""


class Tokens:
    """The tokens of both roles."""

    def __init__(self, admin: Token, read: Token) -> None:
        self.admin = admin
        self.read = read

    async def refresh(self) -> None:
        """Read the files that have changed."""
        await self.admin.refresh()
        await self.read.refresh()

    def role_of(self, token: str) -> Role | None:
        """Return the role of a caller with this token, in constant time; None for a wrong token."""
        digest = _digest(token.encode("latin-1", "replace"))
        admin, read = _same(digest, self.admin.digest), _same(digest, self.read.digest)
        return Role.ADMIN if admin else Role.READ if read else None


_NO_TOKEN = bytes(32)


def _same(digest: bytes, wanted: bytes | None) -> bool:
    return hmac.compare_digest(digest, wanted or _NO_TOKEN) and wanted is not None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
