"""Counters in Redis (or Valkey): one script call, and so one round trip, for all hits of a batch."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import HELD_BACK, Hit
from ..ports import Outcome, Then
from .settling import REGISTER_TTL, Batch

SCRIPT = resources.files(__package__).joinpath("hit.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()


def connect(
    url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    pool_size: int = 10,
    timeout: float = 1.0,
) -> aioredis.Redis:
    """A client for `redis://`, `rediss://` or `unix://`; credentials given apart win over those in the URL.

    Its retries are off: a script call whose answer got lost may have been carried out, and a second one would count
    its hits twice.
    """
    credentials: dict[str, Any] = {}
    if username:
        credentials["username"] = username
    if password:
        credentials["password"] = password
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=pool_size,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        **credentials,
    )
    return aioredis.Redis.from_pool(pool)


class RedisStore:
    """Counters behind one Redis client. `observe` is told of the seconds that each round trip took.

    `hit` tries once; settling.py uses `parts` and `apply`, and makes sure that what fails is written in the end.
    """

    def __init__(
        self, client: aioredis.Redis, observe: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._client = client
        self._observe = observe
        self._under_way: set[asyncio.Task[None]] = set()

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):
            then([() for _ in groups])
            return
        task = asyncio.get_running_loop().create_task(self._hit(groups, then))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self.apply(Batch(groups, "", ""))
        except StoreError as failure:
            outcomes = [failure if group else () for group in groups]
        then(outcomes)

    def parts(self, groups: Sequence[Sequence[Hit]]) -> None:
        """One call reaches everything."""

    async def apply(self, batch: Batch) -> list[list[Count]]:
        """Apply a batch, unless it was applied before (settling.py). Raises StoreError where that is not certain."""
        started = time.perf_counter()
        try:
            replies = await self._call(*_arguments(batch))
            return _counts(batch.groups, replies)
        except Exception as error:
            raise _failure(error) from None
        finally:
            self._observe(time.perf_counter() - started)

    async def _call(self, keys: list[str], arguments: list[str | int]) -> list[int | bytes]:
        try:
            return await self._client.evalsha(SHA, len(keys), *keys, *arguments)  # type: ignore[no-any-return]
        except NoScriptError:  # not carried out: a Redis that is new, or was told SCRIPT FLUSH
            return await self._client.eval(SCRIPT, len(keys), *keys, *arguments)  # type: ignore[no-any-return, arg-type]

    async def start(self) -> None:
        """Load the script. Raises StoreError where Redis cannot be reached."""
        try:
            await self._client.script_load(SCRIPT)
        except (RedisError, OSError) as error:
            raise _failure(error) from None

    async def close(self) -> None:
        """Wait for the hits under way, then close the connections."""
        while self._under_way:  # an answer may hand over more
            await asyncio.wait(self._under_way)
        await self._client.aclose()

    async def ping(self) -> None:
        """Raise StoreError unless Redis answers."""
        try:
            await self._client.ping()
        except (RedisError, OSError) as error:
            raise _failure(error) from None

    async def look(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold, by key. Walks through all keys of the database, a thousand at a time."""
        try:
            return {key: _number(await self._client.get(key)) for key in await self._keys(bucket)}
        except (RedisError, OSError) as error:
            raise _failure(error) from None

    async def forget(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket; returns what they held, by key."""
        try:
            return {key: _number(await self._client.getdel(key)) for key in await self._keys(bucket)}
        except (RedisError, OSError) as error:
            raise _failure(error) from None

    async def _keys(self, bucket: str) -> list[str]:
        pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", f"{bucket}:") + "*"
        return sorted([key.decode() async for key in self._client.scan_iter(match=pattern, count=1000)])


def _arguments(batch: Batch) -> tuple[list[str], list[str | int]]:
    """KEYS and ARGV of hit.lua."""
    keys: list[str] = []
    amounts: list[str | int] = [batch.number, REGISTER_TTL]
    gates: list[str | int] = []
    writes = False
    for group in batch.groups:
        if any([hit.gate & HELD_BACK for hit in group]):
            gates += (len(keys) + 1, len(group))
            for hit in group:
                gates += (int(hit.gate), hit.limit)
        for hit in group:
            keys.append(hit.key)
            amounts += (hit.amount, hit.ttl)
            writes = writes or hit.amount != 0
    if not writes:
        amounts[0] = ""
    keys.append(_register(batch.lane, keys[0]))
    return keys, amounts + gates


def _register(lane: str, key: str) -> str:
    """The register of a lane in the slot of `key`: `<prefix>lane:<lane>{<hash tag of key>}`."""
    prefix, brace, rest = key.partition("{")
    return f"{prefix}lane:{lane}{brace}{rest.partition('}')[0]}}}" if brace else f"lane:{lane}"


def _counts(groups: Sequence[Sequence[Hit]], replies: Sequence[int | bytes]) -> list[list[Count]]:
    counts: list[Count] = [
        reply if isinstance(reply, int) else StoreError(f"Redis refused a counter: {_text(reply)}")
        for reply in replies
    ]
    split: list[list[Count]] = []
    at = 0
    for group in groups:
        split.append(counts[at : at + len(group)])
        at += len(group)
    return split


def _text(reply: object) -> str:
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)


def _number(value: bytes | str | None) -> int | None:
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None


def _failure(error: Exception) -> StoreError:
    """The error as callers see it. redis-py's own texts name hosts and ports, never credentials."""
    return StoreError(
        f"Redis: {type(error).__name__}: {error}" if str(error) else f"Redis: {type(error).__name__}"
    )
