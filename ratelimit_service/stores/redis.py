"""Counters in Redis (or Valkey): one script call, and so one round trip, for all hits of a batch."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio as aioredis
import structlog
from redis.exceptions import (
    ClusterCrossSlotError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
)

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import Hit
from ..ports import Outcome, Then
from .pipe import Pipe, Reply
from .redis_client import PrimaryPool, address_of, connect
from .script import SCRIPT, SHA, Arguments, arguments, counts, failure
from .settling import EVERYWHERE, Batch, Part, joined
from .slots import by_slot, tags

__all__ = ["RedisStore", "ScriptStore", "connect"]


class ScriptStore:
    """What all stores have in common that count by hit.lua. `observe` is told of the seconds of each round trip.

    `hit` tries once; settling.py uses `parts` and `apply`, and makes sure that what fails is written in the end.
    """

    def __init__(self, observe: Callable[[float], None] = lambda seconds: None) -> None:
        self._observe = observe
        self._under_way: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("ratelimit_service.store")

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
        except StoreError as error:
            outcomes = [error if group else () for group in groups]
        then(outcomes)

    async def apply(self, batch: Batch) -> list[list[Count]]:
        """Apply a batch, unless it was applied before (settling.py). Raises StoreError where that is not certain."""
        started = time.perf_counter()
        try:
            return await self._apply(batch)
        except Exception as error:
            raise self._failure(error) from None
        finally:
            self._observe(time.perf_counter() - started)

    async def _apply(self, batch: Batch) -> list[list[Count]]:
        raise NotImplementedError

    def _failure(self, error: Exception) -> StoreError:
        return failure(error)

    async def _finish(self) -> None:
        """Wait for the hits under way."""
        while self._under_way:  # an answer may hand over more
            await asyncio.wait(self._under_way)


class RedisStore(ScriptStore):
    """Counters behind one client: of a server, or of the primary that sentinels name.

    Where the server turns out to stand for several, which do not take keys of different slots in one call, there is one
    call for each slot from then on.
    """

    def __init__(
        self, client: aioredis.Redis, observe: Callable[[float], None] = lambda seconds: None
    ) -> None:
        super().__init__(observe)
        self._client = client
        self._pipe = Pipe(client)
        self._sharded = False

    def parts(self, groups: Sequence[Sequence[Hit]]) -> Sequence[Part] | None:
        """One call reaches everything, unless it turned out otherwise."""
        return by_slot(groups) if self._sharded else None

    async def _apply(self, batch: Batch) -> list[list[Count]]:
        if not self._sharded:
            try:
                return counts(batch.groups, await self._call(arguments(batch)))
            except ClusterCrossSlotError:  # nothing was applied
                self._shard()
        return await apply_by_slot(batch, lambda slot, call: self._pipe.evaluate(call))

    def _shard(self) -> None:
        if not self._sharded:
            self._sharded = True
            self._log.warning(
                "this Redis is sharded behind its address: requests are atomic within a slot, one script call for each"
            )

    async def _call(self, call: Arguments) -> Reply:
        keys, rest = call
        try:
            try:
                return await self._client.evalsha(SHA, len(keys), *keys, *rest)  # type: ignore[no-any-return]
            except NoScriptError:  # not carried out: a Redis that is new, or was told SCRIPT FLUSH
                return await self._client.eval(SCRIPT, len(keys), *keys, *rest)  # type: ignore[no-any-return, arg-type]
        except ReadOnlyError:
            # A primary that has become a replica: the name may lead to another one by now.
            await self._client.connection_pool.disconnect(inuse_connections=False)
            raise

    async def start(self) -> None:
        """Load the script. Raises StoreError where Redis cannot be reached."""
        try:
            await self._client.script_load(SCRIPT)
        except NoPermissionError:  # EVAL does without
            pass
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def close(self) -> None:
        """Wait for the hits under way, then close the connections."""
        await self._finish()
        await self._pipe.close()

    async def ping(self) -> None:
        """Raise StoreError unless Redis answers. Where there are sentinels, hear from them who the primary is."""
        pool = self._client.connection_pool
        try:
            if isinstance(pool, PrimaryPool):
                await pool.get_master_address()
            await self._client.ping()
        except (RedisError, OSError) as error:
            raise failure(error) from None

    def servers(self) -> dict[str, aioredis.Redis]:
        """A client of the server, by its address."""
        return {address_of(self._client): self._client}

    async def look(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold, by key. Walks through all keys of the database, a thousand at a time."""
        return await held(self._client, bucket, self._client.get)

    async def forget(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket; returns what they held, by key."""
        return await held(self._client, bucket, self._client.getdel)


async def apply_by_slot(
    batch: Batch, evaluate: Callable[[int, Arguments], Awaitable[Reply]]
) -> list[list[Count]]:
    """Apply a batch by one call for each slot. Raises the first error where one fails; then the others were applied."""
    if batch.where != EVERYWHERE:
        return counts(batch.groups, await evaluate(batch.where, arguments(batch, tags()[batch.where])))
    parts = by_slot(batch.groups)
    replies = await asyncio.gather(
        *[
            evaluate(part.where, arguments(batch._replace(groups=part.groups), tags()[part.where]))
            for part in parts
        ],
        return_exceptions=True,
    )
    outcomes = []
    for part, reply in zip(parts, replies, strict=True):
        if isinstance(reply, BaseException):
            raise reply
        outcomes.append(counts(part.groups, reply))
    return joined(batch.groups, parts, outcomes)


async def held(
    client: aioredis.Redis, bucket: str, get: Callable[[str], Awaitable[bytes | str | None]]
) -> dict[str, int | None]:
    """What `get` says of the counters of a bucket, by key. Raises StoreError."""
    pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", f"{bucket}:") + "*"
    try:
        keys = sorted([key.decode() async for key in client.scan_iter(match=pattern, count=1000)])
        return {key: _number(await get(key)) for key in keys}
    except (RedisError, OSError) as error:
        raise failure(error) from None


def _number(value: bytes | str | None) -> int | None:
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None
