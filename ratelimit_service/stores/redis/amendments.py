"""Amendments in Redis: all keys have one hash tag, and so one slot and one server.

    {amendments}:current         hash: each amendment by its id, and `version` and `stamp`
    {amendments}:audit           stream: a line for each edit, with the id <version>-<number>
    {amendments}:done:<digest>   the result of the change with an idempotency key, for a day

CACHE_KEY_PREFIX precedes all of them. Scripts read and write everything, and the first key of each is
`current`, so that a proxy sends all of them to the same server. No decision waits for any of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, RedisError, TryAgainError

from ...core.amendments.model import (
    MOST_BYTES,
    MOST_EDITS,
    Amendment,
    AuditLine,
    Change,
    ChangeResult,
    EditResult,
    News,
    Put,
    Remove,
    Reset,
    check,
)
from ...core.amendments.records import Unreadable, digest, read, read_reset, write, write_reset
from ...core.errors import CounterRefused, StoreError
from ..amendments import KEY_REMEMBERED, MOST, conflict, key_of_another, too_large, too_many
from .background_scripts import Evaluation, Run, Script, decoded, script

MOST_AUDITED = 100_000
"""Edits that the audit keeps. It is the record of top-ups and overrides (docs/showback.md), and takes some 50
MB when it is full."""

_SCAN_COUNT = 100
"""Amendments that one call reads: some 30 kB, in a tenth of a millisecond."""

_LINES = 100
"""Lines of the audit that one call reads."""

_MOST_BEHIND = 3_000
"""A replica that is at most this many edits behind reads these edits; otherwise it reads all amendments."""

_MOVED_WITHIN, _MOST_MOVES = 2.0, 20
"""Seconds in which a slot moves to another server, and how often a call is repeated meanwhile."""

_MOST_TRIES = 3
"""How often all amendments are read again if they change meanwhile, as by a failover."""


AMEND = script(resources.files(__package__).joinpath("amend.lua").read_bytes())

# KEYS: current, audit. ARGV: a version, its stamp, how many lines. Returns the current version and its stamp.
# If that is another version, also returns lines of the audit, from the given version on.
NEWS = script(b"""
local now = redis.call('HMGET', KEYS[1], 'version', 'stamp')
if not now[1] or (now[1] == ARGV[1] and now[2] == ARGV[2]) then
    return now
end
now[3] = redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', ARGV[3])
return now
""")

# KEYS: current, audit. ARGV: the id before the first line, how many lines.
LINES = script(b"return redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[2])")

# KEYS: current. ARGV: cursor, count.
SCAN = script(b"return redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])")

# KEYS: current, audit. ARGV: the last id to return, the first one, how many lines.
AUDIT = script(b"return redis.call('XREVRANGE', KEYS[2], ARGV[1], ARGV[2], 'COUNT', ARGV[3])")

# KEYS: current, secret. ARGV: the secret that is kept if there is none. Returns the one that is kept.
SECRET = script(b"""
redis.call('SET', KEYS[2], ARGV[1], 'NX')
return redis.call('GET', KEYS[2])
""")

# KEYS: current, the result of a change.
FINISH = script(b"""
local done = redis.call('GET', KEYS[2])
if done then
    local known = cjson.decode(done)
    known[3] = false
    redis.call('SET', KEYS[2], cjson.encode(known), 'KEEPTTL')
end
return 1
""")


class RedisAmendments:
    """An AmendmentStore (ports.py) of at most `most` amendments, in a Redis that `run` reaches.

    `on_error` returns an error of redis-py as callers see it.
    """

    def __init__(
        self,
        run: Run,
        on_error: Callable[[Exception], StoreError],
        prefix: str = "",
        most: int = MOST,
        most_audited: int = MOST_AUDITED,
    ) -> None:
        self._run = run
        self._on_error = on_error
        self._most = most
        self._most_audited = most_audited
        self._current = f"{prefix}{{amendments}}:current"
        self._audit = f"{prefix}{{amendments}}:audit"
        self._done = f"{prefix}{{amendments}}:done:"
        self._secret = f"{prefix}{{amendments}}:secret"
        self._log = structlog.get_logger("ratelimit_service.amendments")

    async def news(self, version: int, stamp: str) -> News:
        """Return the changes after a version (ports.AmendmentStore.news)."""
        reply = await self._news(version, stamp)
        known = await self._later(version, stamp, reply)
        return known if known is not None else await self._everything()

    async def apply(self, change: Change, *, dry_run: bool = False) -> ChangeResult:
        """Apply a change (ports.AmendmentStore.apply)."""
        check(change)
        hashed = digest(change)
        arguments: list[str | int] = [
            "1" if dry_run else "",
            uuid.uuid4().hex,
            hashed,
            change.at,
            change.author,
            change.reason,
            change.key,
            KEY_REMEMBERED,
            self._most,
            self._most_audited,
            MOST_BYTES,
        ]
        for number, edit in enumerate(change.edits):
            expected = "*" if change.expected is None else _text(change.expected[number])
            match edit:
                case Put(amendment):
                    arguments += (amendment.id, write(amendment), expected, "")
                case Remove(name):
                    arguments += (name, "", expected, "")
                case Reset():
                    arguments += ("", "", "*", write_reset(edit))
        reply = await self._call(AMEND, (self._current, self._audit, self._key_of(change.key)), arguments)
        kind = reply[0]
        if kind == b"applied":
            edits = zip(change.edits, reply[2:], strict=True)
            edited = tuple([_edited(edit, before) for edit, before in edits])
            unfinished = not dry_run and any(each.reset is not None for each in edited)
            return ChangeResult(int(reply[1]), edited, unfinished=unfinished)
        if kind == b"done":
            known, version, unfinished, done = json.loads(reply[1])
            if known != hashed:
                raise key_of_another(change.key)
            return ChangeResult(
                int(version), tuple([_edited_then(*each) for each in done]), True, bool(unfinished)
            )
        if kind == b"conflict":
            assert change.expected is not None
            raise conflict(change.expected[int(reply[1])], _readable(reply[2]))
        if kind == b"large":
            raise too_large(int(reply[1]))
        raise too_many(self._most)

    async def secret(self, proposal: str) -> str:
        """Return the secret that all replicas share (ports.AmendmentStore.secret)."""
        found = await self._call(SECRET, (self._current, self._secret), (proposal,))
        return found.decode() if isinstance(found, bytes) else str(found)

    async def finish(self, key: str) -> None:
        """Note that the resets of a change are done (ports.AmendmentStore.finish)."""
        await self._call(FINISH, (self._current, self._key_of(key)), ())

    async def audit(self, before: int = 0, most: int = 100) -> Sequence[AuditLine]:
        """Return past edits (ports.AmendmentStore.audit)."""
        lines: list[AuditLine] = []
        last = f"({before}-0" if before else "+"
        while len(lines) <= most + MOST_EDITS:  # enough for `most` lines and the rest of a change
            found = await self._call(AUDIT, (self._current, self._audit), (last, "-", _LINES))
            lines += [line for line in map(self._line, found) if line is not None]
            if len(found) < _LINES:
                break
            last = f"({found[-1][0].decode()}"
        for at in range(most, len(lines)):
            if lines[at].version != lines[at - 1].version:
                return lines[:at]
        return lines

    async def _later(self, version: int, stamp: str, reply: list[Any]) -> News | None:
        """Return the changes after a version, beginning with those in `reply`; None if the audit does not
        have them all.
        """
        if reply[0] is None:
            return News(0, "", whole=bool(version))
        if len(reply) == 2:
            return News(version, stamp)
        lines = list(reply[2])
        page = lines
        while len(page) == _LINES and len(lines) < _MOST_BEHIND:
            keys = (self._current, self._audit)
            page = await self._call(LINES, keys, (f"({page[-1][0].decode()}", _LINES))
            lines += page
        if len(page) == _LINES or not version:
            return None
        return _news_in([(_version_of(name), _fields(fields)) for name, fields in lines], version, stamp)

    async def _everything(self) -> News:
        """Return all amendments: those that a scan finds, with the changes that were made meanwhile."""
        for _ in range(_MOST_TRIES):
            reply = await self._news(0, "", 1)
            if reply[0] is None:
                return News(0, "", whole=True)
            version, stamp = int(reply[0]), reply[1].decode()
            found: dict[str, Amendment] = {}
            unreadable = 0
            async for name, text in self._walk():
                try:
                    found[name] = read(text)
                except Unreadable as error:
                    unreadable += 1
                    self._log.warning("an amendment cannot be read", id=name, error=str(error))
            later = await self._later(version, stamp, await self._news(version, stamp))
            if later is not None:
                for name in later.removed:
                    found.pop(name, None)
                found |= {amendment.id: amendment for amendment in later.put}
                return News(later.version, later.stamp, tuple(found.values()), (), True, unreadable)
        raise StoreError("Redis: the amendments change faster than they can be read")

    async def _walk(self) -> Any:
        cursor: str | bytes = "0"
        while True:
            cursor, fields = await self._call(SCAN, (self._current,), (_text_of(cursor), _SCAN_COUNT))
            for name, text in zip(fields[::2], fields[1::2], strict=True):
                if name not in (b"version", b"stamp"):
                    yield decoded(name), text
            if int(cursor) == 0:
                return

    async def _news(self, version: int, stamp: str, most: int = _LINES) -> list[Any]:
        reply: list[Any] = await self._call(NEWS, (self._current, self._audit), (version, stamp, most))
        return reply

    async def _call(self, what: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        for _ in range(_MOST_MOVES):
            try:
                return await self._run(Evaluation(what, keys, arguments))
            except TryAgainError:  # nothing was applied: the slot is moving to another server
                await asyncio.sleep(_MOVED_WITHIN / _MOST_MOVES)
            except (RedisError, OSError) as error:
                raise self._error(error, keys[0]) from None
        raise StoreError("Redis: the slot of the amendments is on its way to another server")

    def _error(self, error: Exception, key: str) -> StoreError:
        if isinstance(error, NoPermissionError):  # not an outage, and a retry does not help
            return CounterRefused(str(self._on_error(error)), key)
        return self._on_error(error)

    def _key_of(self, key: str) -> str:
        return self._done + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _line(self, entry: Any) -> AuditLine | None:
        name, fields = entry
        said = _fields(fields)
        try:
            edited = _edited_then(said["id"], said["before"], said["after"], said["reset"])
            at = int(said["at"])
        except (Unreadable, KeyError, ValueError) as error:
            self._log.warning("a line of the audit cannot be read", id=name.decode(), error=str(error))
            return None
        return AuditLine(_version_of(name), at, said["author"], said["reason"], said["key"], edited)


def _news_in(lines: Sequence[tuple[int, Mapping[str, str]]], version: int, stamp: str) -> News | None:
    """Return the changes after a version from lines of the audit; None if these do not begin with that
    version.
    """
    if (
        not lines
        or lines[0][0] != version
        or any(each["stamp"] != stamp for at, each in lines if at == version)
    ):
        return None
    last: dict[str, str] = {}
    for at, each in lines:
        if at > version and each["id"]:
            last[each["id"]] = each["after"]
    put: list[Amendment] = []
    unreadable = 0
    for text in filter(None, last.values()):
        try:
            put.append(read(text))
        except Unreadable:
            unreadable += 1
    removed = tuple([name for name, text in last.items() if not text])
    now, fields = lines[-1]
    return News(now, fields["stamp"], tuple(put), removed, unreadable=unreadable)


def _fields(pairs: Sequence[bytes]) -> Mapping[str, str]:
    texts = [decoded(text) for text in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _version_of(name: bytes) -> int:
    return int(name.partition(b"-")[0])


def _text(amendment: Amendment | None) -> str:
    return "" if amendment is None else write(amendment)


def _text_of(cursor: str | bytes) -> str:
    return cursor.decode() if isinstance(cursor, bytes) else cursor


def _edited(edit: Put | Remove | Reset, before: bytes) -> EditResult:
    if isinstance(edit, Reset):
        return EditResult("", reset=edit)
    replaced = _readable(before)
    if isinstance(edit, Put):
        return EditResult(edit.amendment.id, replaced, edit.amendment)
    return EditResult(edit.id, replaced)


def _edited_then(name: str, before: str, after: str, reset: str) -> EditResult:
    return EditResult(name, _readable(before), _readable(after), read_reset(reset) if reset else None)


def _readable(text: str | bytes) -> Amendment | None:
    """Return the amendment in a text; None if the text is empty, or if a later version of the service wrote
    it.
    """
    try:
        return read(text) if text else None
    except Unreadable:
        return None
