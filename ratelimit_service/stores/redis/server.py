"""Counters in Redis (or Valkey): one script call, and so one round trip, for all hits of a batch."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import (
    ClusterCrossSlotError,
    InvalidResponse,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
)

from ...core.errors import StoreError
from ...core.model import HitValues
from ...ports import Then
from ..batch import EVERYWHERE, Applied, Batch, Part, UnderWay, joined, together
from .client import PrimaryPool, address_of, connect
from .script import SCRIPT, Arguments, Call, Counts, evaluate, failure
from .slots import by_slot, tags
from .wire import Answered, Wire

__all__ = ["RedisStore", "ScriptStore", "connect"]


class ScriptStore:
    """What all stores have in common that count by hit.lua. `observe` is told of the seconds of each round trip.

    `hit` tries once; layers/settling.py uses `parts` and `apply`, and makes sure that what fails is written in the end.
    """

    def __init__(self, observe: Callable[[float], None] = lambda seconds: None) -> None:
        self._observe = observe
        self._under_way = UnderWay()
        self._log = structlog.get_logger("ratelimit_service.store")

    def hit(self, groups: Sequence[Sequence[HitValues]], then: Then) -> None:
        """Apply groups of hits (ports.CounterStore.hit)."""
        if not any(groups):
            then([() for _ in groups])
            return

        def applied(outcome: Counts | StoreError) -> None:
            if isinstance(outcome, StoreError):
                then([outcome if group else () for group in groups])
            else:
                then(outcome)

        self.apply(Batch(groups, "", ""), applied)

    def apply(self, batch: Batch, then: Applied) -> None:
        """Apply a batch, unless it was applied before, and tell `then` (settling.Backend)."""
        started = time.perf_counter()
        self._under_way.begin()

        def applied(outcome: Counts | Exception) -> None:
            self._observe(time.perf_counter() - started)
            try:
                then(self._failure(outcome) if isinstance(outcome, Exception) else outcome)
            finally:
                self._under_way.end()

        self._apply(batch, applied)

    def _apply(self, batch: Batch, then: Callable[[Counts | Exception], None]) -> None:
        raise NotImplementedError

    def _failure(self, error: Exception) -> StoreError:
        return failure(error)

    async def _finish(self) -> None:
        """Wait for the hits under way."""
        await self._under_way.none()


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
        self._wire = Wire(client)
        self._sharded = False
        self._closing: set[asyncio.Task[None]] = set()

    def parts(self, groups: Sequence[Sequence[HitValues]]) -> Sequence[Part] | None:
        """One call reaches everything, unless it turned out otherwise."""
        return by_slot(groups) if self._sharded else None

    def _apply(self, batch: Batch, then: Callable[[Counts | Exception], None]) -> None:
        if self._sharded:
            apply_by_slot(batch, self._evaluate, then)
            return
        call = Call(batch)

        def answered(reply: Any) -> None:
            if isinstance(reply, ClusterCrossSlotError):  # nothing was applied
                self._shard()
                apply_by_slot(batch, self._evaluate, then)
            else:
                then(call.counts(reply))

        self._evaluate(EVERYWHERE, call.arguments, answered)

    def _evaluate(self, slot: int, arguments: Arguments, then: Answered) -> None:
        def answered(reply: Any) -> None:
            if isinstance(reply, ReadOnlyError):
                self._move_on()
            then(reply)

        evaluate(self._wire, arguments, answered)

    def _shard(self) -> None:
        if not self._sharded:
            self._sharded = True
            self._log.warning(
                "this Redis is sharded behind its address: requests are atomic within a slot, one script call for each"
            )

    def _move_on(self) -> None:
        """A primary that has become a replica: its name may lead to another one by now."""
        self._wire.drop("this Redis is read-only")
        task = asyncio.get_running_loop().create_task(self._disconnect_idle())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _disconnect_idle(self) -> None:
        with suppress(RedisError, OSError):
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def start(self) -> None:
        """Load the script. Raises StoreError where Redis cannot be reached."""
        try:
            await self._wire.ask("SCRIPT", "LOAD", SCRIPT)
        except NoPermissionError:  # EVAL does without
            pass
        except Exception as error:
            raise failure(error) from None

    async def close(self) -> None:
        """Wait for the hits under way, then close the connections."""
        await self._finish()
        if self._closing:
            await asyncio.wait(self._closing)
        await self._wire.close()

    async def ping(self) -> None:
        """Raise StoreError unless Redis answers. Where there are sentinels, hear from them who the primary is."""
        pool = self._client.connection_pool
        try:
            if isinstance(pool, PrimaryPool):
                primary = await pool.get_master_address()
                self._wire.drop("another Redis is the primary now", unless_at=primary)
            if not await self._client.ping():
                raise InvalidResponse("PING was answered with something else than PONG")
        except Exception as error:  # the driver raises anything, where it cannot parse a reply
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


def apply_by_slot(
    batch: Batch,
    evaluate: Callable[[int, Arguments, Answered], None],
    then: Callable[[Counts | Exception], None],
) -> None:
    """Apply a batch by one call for each slot; where some fail, the others are applied, and the first error is told."""
    if batch.where != EVERYWHERE:
        call = Call(batch, tags()[batch.where])
        evaluate(batch.where, call.arguments, lambda reply: then(call.counts(reply)))
        return
    parts = by_slot(batch.groups)
    calls = [Call(batch._replace(groups=part.groups), tags()[part.where]) for part in parts]

    def applied(replies: list[Any]) -> None:
        outcomes: list[Counts] = []
        for call, reply in zip(calls, replies, strict=True):
            counts = call.counts(reply)
            if isinstance(counts, Exception):
                then(counts)
                return
            outcomes.append(counts)
        then(joined(batch.groups, parts, outcomes))

    for part, call, answered in zip(parts, calls, together(len(parts), applied), strict=True):
        evaluate(part.where, call.arguments, answered)


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
