"""Walks through the keys of a server, and reads counters, in commands that never occupy Redis for long.

They use the connection for counters, so each must be short: SCAN examines two hundred keys, MGET reads a
hundred counters, and either takes some tens of microseconds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from redis.exceptions import RedisError, ResponseError

from ...core.holds.hit import MOST_HELD
from ...core.model import COUNTER_MAX
from ...ports import WalkStep
from ..batch import result_of
from ..cursors import read_number
from .bucket_counters import number
from .errors import failure
from .wire import Wire

_LOOKED_AT = 200
"""Keys that one SCAN examines."""

READ_AT_ONCE = 100
"""Counters that one MGET reads."""

HIGHEST_CURSOR = 2**64 - 1


async def walk(wire: Wire, begin: str, part: str, cursor: str) -> WalkStep:
    """Return the keys of one step of SCAN, and the cursor of the next one. Raises StoreError or
    InvalidRequest.
    """
    read_number(cursor, HIGHEST_CURSOR + 1)
    pattern = f"{_glob(begin)}*{_glob(part)}*" if part else f"{_glob(begin)}*"
    try:
        following, found = await wire.ask("SCAN", cursor, "MATCH", pattern, "COUNT", _LOOKED_AT)
        keys = [key.decode("utf-8", "surrogateescape") for key in found]
    except (RedisError, OSError) as error:
        raise failure(error) from None
    return WalkStep(keys, "" if int(following) == 0 else _text(following))


async def read_together(wire: Wire, keys: Sequence[str]) -> dict[str, int | None]:
    """Return the existing ones of these counters, which are on one server. Raises the errors of redis-py."""
    found: dict[str, int | None] = {}
    for first in range(0, len(keys), READ_AT_ONCE):
        some = keys[first : first + READ_AT_ONCE]
        values = await wire.ask("MGET", *[key.encode("utf-8", "surrogateescape") for key in some])
        found.update(
            {key: number(value) for key, value in zip(some, values, strict=True) if value is not None}
        )
    return found


async def read_each(wire: Wire, keys: Sequence[str], command: str = "GET") -> dict[str, Any]:
    """Return the reply to a command for each key, or the error in its place: the keys may be in several
    slots.
    """
    found: dict[str, Any] = {}
    for first in range(0, len(keys), READ_AT_ONCE):
        some = keys[first : first + READ_AT_ONCE]
        replies = await asyncio.gather(
            *[
                result_of(partial(wire.call, (command, key.encode("utf-8", "surrogateescape"))))
                for key in some
            ]
        )
        found.update(zip(some, replies, strict=True))
    return found


def counters_in(replies: dict[str, Any]) -> dict[str, int | None]:
    """Return the existing counters from replies to GET; None for a key of another type. Raises other
    errors.
    """
    found: dict[str, int | None] = {}
    for key, reply in replies.items():
        if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
            found[key] = None
        elif isinstance(reply, Exception):
            raise reply
        elif reply is not None:
            found[key] = number(reply)
    return found


def entries_in(replies: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the entries of books from replies to HGETALL. Raises the errors among them."""
    found: dict[str, dict[str, int]] = {}
    for key, fields in _hashes(replies):
        entries = {
            _text(name): min(value, COUNTER_MAX)
            for name, text in fields
            if name.isascii() and (value := number(text)) is not None
        }
        if entries:
            found[key] = entries
    return found


def _hashes(replies: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
    """Yield the fields of each hash from replies to HGETALL, without keys of another type. Raises the other
    errors.
    """
    for key, reply in replies.items():
        if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
            continue
        if isinstance(reply, Exception):
            raise reply
        yield (
            key,
            list(reply.items())
            if isinstance(reply, dict)
            else list(zip(reply[::2], reply[1::2], strict=True)),
        )


def holds_in(replies: Mapping[str, Any], now: int) -> dict[str, int]:
    """Return the tokens held at `now` from replies to HGETALL (stores/redis/holds.lua), without keys of
    another type.

    Raises the other errors among them.
    """
    found: dict[str, int] = {}
    for key, fields in _hashes(replies):
        tokens = [
            int(value.partition(b":")[0])
            for name, value in fields
            if name.isdigit() and int(name) > now and value.partition(b":")[0].isdigit()
        ]
        if fields:
            found[key] = min(sum(tokens), MOST_HELD)
    return found


def _text(cursor: bytes | str) -> str:
    return cursor.decode() if isinstance(cursor, bytes) else cursor


def _glob(text: str) -> str:
    """Return a glob that matches only `text`."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
