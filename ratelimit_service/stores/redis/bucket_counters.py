"""Reads the counters of a bucket, whose windows are not known, by scanning all keys; deletes counters by
their keys.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from ...core.holds.hit import is_of_holds
from ...core.ledger.entries import is_of_ledger
from .background_scripts import Evaluation, Run, script
from .errors import failure
from .script import register
from .slots import tag_of
from .wire import Wire

_SCAN = "return redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', '1000')"
_GETDEL = script(b"return redis.call('GETDEL', KEYS[2])")
_GET = "return redis.call('GET', KEYS[2])"


async def counters_of(wire: Wire, prefix: str, bucket: str) -> dict[str, int | None]:
    """Return the counters of a bucket, by key. Raises StoreError.

    This runs scripts with the same first key as the calls that count the bucket (ScriptCall), so that a proxy
    sends them to the server of the bucket. None stands for a value that is not a number.
    """
    first = register(prefix, "", tag_of(bucket))
    keys: set[str] = set()
    cursor: str | bytes = "0"
    try:
        while True:
            cursor, found = await wire.ask("EVAL", _SCAN, 1, first, cursor, pattern_of(bucket))
            keys.update(filter(_is_counter, map(bytes.decode, found)))
            if int(cursor) == 0:
                break
        return {key: number(await wire.ask("EVAL", _GET, 2, first, key)) for key in sorted(keys)}
    except (RedisError, OSError) as error:
        raise failure(error) from None


async def delete_counters(run: Run, prefix: str, keys: Sequence[str]) -> dict[str, int | None]:
    """Delete counters, and return the last values of those that existed. Raises the errors of redis-py."""
    found = {}
    for key in keys:
        value = await run(Evaluation(_GETDEL, (register(prefix, "", tag_of(key)), key), ()))
        if value is not None:
            found[key] = number(value)
    return found


async def counters_on(
    client: aioredis.Redis, bucket: str, get: Callable[[str], Awaitable[bytes | str | None]]
) -> dict[str, int | None]:
    """Return the counters of a bucket on one server of a Cluster, by key. `get` reads one. Raises
    StoreError.
    """
    try:
        found = [key.decode() async for key in client.scan_iter(match=pattern_of(bucket), count=1000)]
        return {key: number(await get(key)) for key in sorted(filter(_is_counter, found))}
    except (RedisError, OSError) as error:
        raise failure(error) from None


def _is_counter(key: str) -> bool:
    """Return whether a key of a bucket is a counter, and not of its holds or its ledger."""
    return not is_of_ledger(key) and not is_of_holds(key)


def pattern_of(bucket: str) -> str:
    """Return a glob that matches the counters of a bucket and nothing else."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", f"{bucket}:") + "*"


def number(value: bytes | str | None) -> int | None:
    """Return the value of a counter; None if it is not a number."""
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None
