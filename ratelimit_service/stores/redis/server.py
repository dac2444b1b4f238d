"""Counters in Redis (or Valkey): one script call, and so one round trip, for all hits of a batch."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    InvalidResponse,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from ...core.errors import StoreError
from ...ports import WalkStep
from ..batch import Batch, Groups, Part
from ..lanes import EVERYWHERE, REGISTER_TTL, Place
from .background_scripts import Evaluation, run_at
from .bucket_counters import counters_of
from .client import PrimaryPool, address_of, time_of
from .errors import failure
from .evaluating import evaluate
from .key_spread import Spread, find_out
from .scanning import counters_in, entries_in, holds_in, read_each, read_together, walk
from .script import evalsha, register
from .slots import by_slot, by_tag
from .store import OnCounts, ScriptStore
from .wire import Command, OnReply, Wire, reply_to

_LOOK_AGAIN = 60.0
"""Seconds until the spread of the keys is determined again, because a proxy may get another server at any
time."""

_PROBES = tuple(hashlib.sha256(bytes([number])).hexdigest()[:12] for number in range(16))
"""Lanes whose registers a probe writes if there may be several servers; any hash spreads these names."""

_WARNINGS = {
    Spread.SLOTS: "this Redis is sharded behind its address: requests are atomic within a slot, "
    "one script call for each",
    Spread.TAGS: "this Redis is a proxy in front of several servers: requests are atomic within a bucket, "
    "one script call for each",
}


class RedisStore(ScriptStore):
    """Counters behind one client: of a server, or of the primary that sentinels name.

    Behind its address there may be several servers. Unless all keys are known to be on one server
    (key_spread.py), there is a call for each slot or each hash tag.
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
        """When the spread was last determined, in the loop's time."""
        self._closing: set[asyncio.Task[None]] = set()

    def split(self, groups: Groups) -> Sequence[Part] | None:
        """Split groups into parts whose keys are certainly on one server."""
        if self._spread is Spread.ONE:
            return None
        return by_slot(groups) if self._spread is Spread.SLOTS else by_tag(groups)

    def server_of(self, place: Place) -> object:
        """Return the place itself, because a proxy does not report which server has a place."""
        return place

    def _apply(self, batch: Batch, on_counts: OnCounts) -> None:
        if self._spread is not Spread.ONE and batch.place == EVERYWHERE:
            # A batch that was sent through a proxy in one call must be sent in one call again: its number is
            # in one register.
            one_call = self._spread is not Spread.SLOTS and batch.sent is not None
            parts = None if one_call else self.split(batch.groups)
            if parts:
                self._apply_in_parts(batch, parts, on_counts)
                return
        call = self._call(batch)

        def on_reply(reply: Any) -> None:
            if isinstance(reply, ClusterCrossSlotError):  # nothing was applied
                self._is_spread(Spread.SLOTS)
                self._apply_in_parts(batch, by_slot(batch.groups), on_counts)
            else:
                on_counts(self._counts(call, reply))

        self._evaluate(batch.place, call.command, on_reply)

    def _evaluate(self, place: Place, command: Command, on_reply: OnReply) -> None:
        evaluate(self._wire, command, on_reply)

    def _on_error(self, error: Exception) -> StoreError:
        if isinstance(error, ReadOnlyError):
            self._leave_replica()
        # If a proxy answers, Redis is not away, even if a server behind the proxy is.
        several = self._spread in (Spread.SLOTS, Spread.TAGS)
        return failure(error, partly=several and isinstance(error, ResponseError))

    def _is_spread(self, spread: Spread) -> None:
        if spread is not self._spread and spread in _WARNINGS:
            self._log.warning(_WARNINGS[spread])
        self._spread = spread

    def _leave_replica(self) -> None:
        """Drop all connections to a replica that was the primary, because its name may lead to another server
        now.
        """
        self._wire.drop("this Redis is read-only")
        task = asyncio.get_running_loop().create_task(self._disconnect_idle())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _disconnect_idle(self) -> None:
        with suppress(RedisError, OSError):
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def start(self) -> None:
        """Run the script, and determine how keys are spread.

        Raises StoreError if Redis would not count.
        """
        try:
            await self._probe()
            if self._spread is Spread.UNKNOWN:
                await self._find_out()
        except Exception as error:
            raise failure(error) from None

    async def _probe(self) -> None:
        """Run the script without a hit, over the connection of the script calls.

        That proves more than PING, which a proxy answers itself. Of several servers, one that runs the script
        is enough. The probe also loads the script without the command SCRIPT, which may be forbidden, and
        keeps the connection alive.
        """
        lanes = ("",) if self._spread is Spread.ONE else _PROBES
        commands = [evalsha(1, register(self._prefix, lane), "", REGISTER_TTL) for lane in lanes]
        replies = await asyncio.gather(*map(self._ask, commands), return_exceptions=True)
        redirects = [
            reply for reply in replies if isinstance(reply, AskError)
        ]  # or MOVED: a server of a Cluster
        if redirects or [] not in replies:
            wrong = (redirects or replies)[0]
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

    def _ask(self, command: Command) -> Awaitable[Any]:
        return reply_to(lambda on_reply: evaluate(self._wire, command, on_reply))

    async def close(self) -> None:
        """Wait for the batches in flight, then close the connections."""
        await self._in_flight.drained()
        if self._closing:
            await asyncio.wait(self._closing)
        await self._wire.close()

    async def ping(self) -> None:
        """Raise StoreError unless Redis would count. With sentinels, follow them to the current primary."""
        pool = self._client.connection_pool
        try:
            if isinstance(pool, PrimaryPool):
                primary = await pool.get_master_address()
                self._wire.drop("another Redis is the primary now", unless_at=primary)
            await self._probe()
            again = asyncio.get_running_loop().time() > self._found_out + _LOOK_AGAIN
            if self._spread is Spread.UNKNOWN or (self._spread is Spread.ONE and again):
                await self._find_out()
        except Exception as error:  # redis-py raises any exception if it cannot parse a reply
            raise failure(error) from None

    async def time(self) -> float | None:
        """Return the seconds of Redis' clock (layers/backend.py)."""
        return await time_of(self._client)

    def servers(self) -> dict[str, aioredis.Redis]:
        """Return a client of the server, by its address."""
        return {address_of(self._client): self._client}

    def register_on(self, server: str, lane: str) -> str:
        """Return the key of a lane's register."""
        return register(self._prefix, lane)

    async def _run(self, what: Evaluation) -> Any:
        return await run_at(self._wire, what)

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        """Return some keys (ports.CounterStore.walk)."""
        return await walk(self._wire, begin, part, position or "0")

    async def read_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return those of these counters that are there."""
        try:
            if self._spread is Spread.ONE:
                return await read_together(self._wire, keys)
            return counters_in(await read_each(self._wire, keys))
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def read_holds(self, keys: Sequence[str], now: int) -> dict[str, int]:
        """Return the held tokens under these keys."""
        try:
            return holds_in(await read_each(self._wire, keys, "HGETALL"), now)
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Return the entries in these books."""
        try:
            return entries_in(await read_each(self._wire, keys, "HGETALL"))
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters of a bucket, by key.

        Walks through all keys of its server, a thousand at a time.
        """
        return await counters_of(self._wire, self._prefix, bucket)
