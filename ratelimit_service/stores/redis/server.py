"""Counters in Redis (or Valkey): one script call, and so one round trip, for all hits of a batch."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    InvalidResponse,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from ...core.errors import StoreError
from ...core.model import Hit
from ...ports import Then
from ..batch import EVERYWHERE, Applied, Batch, CallFailed, Part, Place, UnderWay, joined, together
from .client import PrimaryPool, address_of, connect, time_of
from .errors import failure
from .held import look_up
from .script import Arguments, Call, Counts, evaluate, register
from .slots import by_slot, by_tag, tag_in
from .spread import Spread, find_out
from .wire import Answered, Wire, asked

__all__ = ["RedisStore", "ScriptStore", "connect"]

_LOOK_AGAIN = 60.0
"""Seconds until it is found out again whether all keys are on one server: a proxy may be given another one at any time."""

_GREETED = tuple(hashlib.sha256(bytes([number])).hexdigest()[:12] for number in range(16))
"""Lanes whose registers are asked for where there may be several servers; with names that any hash spreads."""

_SAID = {
    Spread.SLOTS: "this Redis is sharded behind its address: requests are atomic within a slot, one script call for each",
    Spread.TAGS: "this Redis is a proxy before several servers: requests are atomic within a bucket, one script call for each",
}


class ScriptStore:
    """What all stores have in common that count by hit.lua. All keys begin with `prefix`.

    `observe` is called with the seconds of each round trip. `hit` tries once; layers/settling.py uses `parts` and `apply`, and
    makes sure that what fails is written in the end.
    """

    def __init__(self, observe: Callable[[float], None] = lambda seconds: None, prefix: str = "") -> None:
        self._observe = observe
        self._prefix = prefix
        self._under_way = UnderWay()
        self._log = structlog.get_logger("ratelimit_service.store")

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
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
        """Apply a batch, unless it was applied before, and tell `then` (layers/backend.py)."""
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
        """One call."""
        call = self._call(batch)
        self._evaluate(batch.where, call.arguments, lambda reply: then(call.counts(reply)))

    def _apply_in_parts(
        self, batch: Batch, parts: Sequence[Part], then: Callable[[Counts | Exception], None]
    ) -> None:
        """One call for each part; where some fail, the others are applied, and the batch is not known to be."""

        def applied(outcomes: list[Counts | Exception]) -> None:
            counts: list[Counts] = []
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    then(CallFailed(str(failure(outcome))))
                    return
                counts.append(outcome)
            then(joined(batch.groups, parts, counts))

        for part, answer in zip(parts, together(len(parts), applied), strict=True):
            ScriptStore._apply(self, batch._replace(groups=part.groups, where=part.where), answer)

    def _call(self, batch: Batch) -> Call:
        where = batch.where
        if isinstance(where, str):
            return Call(batch, self._prefix, where, routed=True)
        return Call(batch, self._prefix, "" if where == EVERYWHERE else tag_in(where))

    def _evaluate(self, where: Place, arguments: Arguments, then: Answered) -> None:
        """Run the script on the server that has this place."""
        raise NotImplementedError

    def _failure(self, error: Exception) -> StoreError:
        return failure(error)

    async def _finish(self) -> None:
        """Wait for the hits under way."""
        await self._under_way.none()


class RedisStore(ScriptStore):
    """Counters behind one client: of a server, or of the primary that sentinels name.

    The address may stand for several servers. Until it is known to be one (spread.py), and where it is not, there is a call
    for each slot or each hash tag.
    """

    def __init__(
        self,
        client: aioredis.Redis,
        observe: Callable[[float], None] = lambda seconds: None,
        prefix: str = "",
    ) -> None:
        super().__init__(observe, prefix)
        self._client = client
        self._wire = Wire(client)
        self._spread = Spread.UNKNOWN
        self._found_out = 0.0
        """When `_spread` was last looked at, in the loop's time."""
        self._closing: set[asyncio.Task[None]] = set()

    def parts(self, groups: Sequence[Sequence[Hit]]) -> Sequence[Part] | None:
        """Split groups by what one server is sure to have."""
        if self._spread is Spread.ONE:
            return None
        return by_slot(groups) if self._spread is Spread.SLOTS else by_tag(groups)

    def server_of(self, where: Place) -> object:
        """A proxy does not tell who has what: each place is judged by itself."""
        return where

    def _apply(self, batch: Batch, then: Callable[[Counts | Exception], None]) -> None:
        several = self._spread is not Spread.ONE
        # A batch with a lane that was sent in one call stays one: its number is in one register.
        if several and batch.where == EVERYWHERE and (not batch.lane or self._spread is Spread.SLOTS):
            parts = self.parts(batch.groups)
            if parts:
                self._apply_in_parts(batch, parts, then)
                return
        call = self._call(batch)

        def answered(reply: Any) -> None:
            if isinstance(reply, ClusterCrossSlotError):  # nothing was applied
                self._is_spread(Spread.SLOTS)
                self._apply_in_parts(batch, by_slot(batch.groups), then)
            else:
                then(call.counts(reply))

        self._evaluate(batch.where, call.arguments, answered)

    def _evaluate(self, where: Place, arguments: Arguments, then: Answered) -> None:
        def answered(reply: Any) -> None:
            if isinstance(reply, ReadOnlyError):
                self._move_on()
            then(reply)

        evaluate(self._wire, arguments, answered)

    def _failure(self, error: Exception) -> StoreError:
        # A proxy that answers is there, whatever becomes of the servers behind it.
        several = self._spread in (Spread.SLOTS, Spread.TAGS)
        return failure(error, partly=several and isinstance(error, ResponseError))

    def _is_spread(self, spread: Spread) -> None:
        if spread is not self._spread and spread in _SAID:
            self._log.warning(_SAID[spread])
        self._spread = spread

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
        """Run the script, and find out how keys are spread. Raises StoreError where Redis does not count for us."""
        try:
            await self._greet()
            if self._spread is Spread.UNKNOWN:
                await self._find_out()
        except Exception as error:
            raise failure(error) from None

    async def _greet(self) -> None:
        """Run the script without a hit, by the connection that counts.

        That tells more than PING, which a proxy answers by itself; of several servers, one that runs it is enough. It also
        loads the script without SCRIPT, which may be forbidden, and keeps the connection alive.
        """
        lanes = ("",) if self._spread is Spread.ONE else _GREETED
        calls = [Call(Batch((), lane, ""), self._prefix).arguments for lane in lanes]
        replies = await asyncio.gather(*map(self._ask, calls), return_exceptions=True)
        moved = [reply for reply in replies if isinstance(reply, AskError)]  # or MOVED: a server of a Cluster
        if moved or [] not in replies:
            wrong = (moved or replies)[0]
            raise (
                wrong
                if isinstance(wrong, BaseException)
                else InvalidResponse(f"the script replied {wrong!r}")
            )

    async def _find_out(self) -> None:
        self._found_out = asyncio.get_running_loop().time()
        found = await find_out(self._ask, self._prefix)
        if found is not Spread.UNKNOWN:
            self._is_spread(found)

    def _ask(self, arguments: Arguments) -> Awaitable[Any]:
        return asked(lambda then: evaluate(self._wire, arguments, then))

    async def close(self) -> None:
        """Wait for the hits under way, then close the connections."""
        await self._finish()
        if self._closing:
            await asyncio.wait(self._closing)
        await self._wire.close()

    async def ping(self) -> None:
        """Raise StoreError unless Redis counts for us. Where there are sentinels, hear from them who the primary is."""
        pool = self._client.connection_pool
        try:
            if isinstance(pool, PrimaryPool):
                primary = await pool.get_master_address()
                self._wire.drop("another Redis is the primary now", unless_at=primary)
            await self._greet()
            again = asyncio.get_running_loop().time() > self._found_out + _LOOK_AGAIN
            if self._spread is Spread.UNKNOWN or (self._spread is Spread.ONE and again):
                await self._find_out()
        except Exception as error:  # the driver raises anything, where it cannot parse a reply
            raise failure(error) from None

    async def time(self) -> float | None:
        """Seconds by the clock of Redis (layers/backend.py)."""
        return await time_of(self._client)

    def servers(self) -> dict[str, aioredis.Redis]:
        """A client of the server, by its address."""
        return {address_of(self._client): self._client}

    def register_on(self, server: str, lane: str) -> str:
        """The key of a lane's register."""
        return register(self._prefix, lane)

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold, by key. Walks through all keys of its server, a thousand at a time."""
        return await look_up(self._wire, self._prefix, bucket, "GET")

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket; returns what they held, by key."""
        return await look_up(self._wire, self._prefix, bucket, "GETDEL")
