"""Reading and deleting the counters of a bucket, whose windows nobody knows: by walking through all keys of its server."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from .errors import failure
from .script import register
from .slots import tag_of
from .wire import Wire

_SCAN = "return redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', '1000')"
_READ = "return redis.call(ARGV[1], KEYS[2])"


async def look_up(wire: Wire, prefix: str, bucket: str, command: str) -> dict[str, int | None]:
    """What `command` (GET or GETDEL) returns for the counters of a bucket, by key. Raises StoreError.

    By scripts with the first key of the bucket's own calls (script.Call), so that a proxy sends them to the server that counts
    the bucket. None is a value that is no number.
    """
    first = register(prefix, "", tag_of(bucket))
    keys: set[str] = set()
    cursor: str | bytes = "0"
    try:
        while True:
            cursor, found = await wire.ask("EVAL", _SCAN, 1, first, cursor, pattern_of(bucket))
            keys.update(key.decode() for key in found)
            if int(cursor) == 0:
                break
        return {key: number(await wire.ask("EVAL", _READ, 2, first, key, command)) for key in sorted(keys)}
    except (RedisError, OSError) as error:
        raise failure(error) from None


async def held(
    client: aioredis.Redis, bucket: str, get: Callable[[str], Awaitable[bytes | str | None]]
) -> dict[str, int | None]:
    """What `get` says of the counters of a bucket on one server of a Cluster, by key. Raises StoreError."""
    try:
        keys = sorted([key.decode() async for key in client.scan_iter(match=pattern_of(bucket), count=1000)])
        return {key: number(await get(key)) for key in keys}
    except (RedisError, OSError) as error:
        raise failure(error) from None


def pattern_of(bucket: str) -> str:
    """A glob that matches the counters of a bucket and nothing else."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", f"{bucket}:") + "*"


def number(value: bytes | str | None) -> int | None:
    """A counter's value."""
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None
