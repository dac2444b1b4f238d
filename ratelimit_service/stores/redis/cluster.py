"""Counters in a Redis Cluster: one script call per slot, over one connection per server.

redis-py's client for Clusters repeats a command after errors that do not say whether it was executed, and
closes every connection when a slot has moved. So this module only uses its connections. It repeats a call
only if the reply says that it was not executed: MOVED, ASK, TRYAGAIN and NOSCRIPT. layers/settling.py handles
every other failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import redis.asyncio as aioredis
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...core.errors import StoreError
from ...ports import WalkStep
from ...runtime.tasks import Background
from ..batch import Batch, Groups, OnApplied, OnEachApplied, Part
from ..cursors import read_number
from ..lanes import EVERYWHERE, Place
from .background_scripts import Evaluation, run_at
from .bucket_counters import counters_on
from .client import Address, time_of
from .errors import NotSent, bare, failure
from .evaluating import evaluate, evaluate_whole
from .pipeline import Pipeline
from .scanning import HIGHEST_CURSOR, counters_in, entries_in, holds_in, read_each, walk
from .script import ScriptCall, register
from .slots import by_slot, slot_of, tag_in
from .store import OnCounts, ScriptStore
from .topology import ClusterServer, Connect, Topology
from .wire import Command, OnReply, ignore, reply_to

_SILENT = (RedisConnectionError, RedisTimeoutError, OSError)  # asyncio's TimeoutError is an OSError

_MOVING = (MovedError, AskError, TryAgainError)

T = TypeVar("T")

_MOST_REDIRECTS = 6
"""How often a call follows a redirect before it fails, and is settled later."""

_TRY_AGAIN = 0.002
"""Seconds until a call for a moving slot is repeated, once: other calls of the batch wait for its outcome."""


class ClusterStore(ScriptStore):
    """Counters in a Cluster with servers at `seeds`, and others. `connect` makes the client of a server.

    If a server is silent for `patience` seconds, its calls fail as lost, and no more are sent to it until it
    answers. The lost calls may still be executed, which layers/settling.py takes into account.
    """

    def __init__(
        self,
        connect: Connect,
        seeds: Sequence[Address],
        observe: Callable[[float], None] = lambda seconds: None,
        patience: float = 0.25,
        prefix: str = "",
        background: Background | None = None,
    ) -> None:
        super().__init__(observe, prefix)
        self._topology = Topology(connect, seeds, patience, background)
        self._following: set[asyncio.Task[None]] = set()

    def split(self, groups: Groups) -> Sequence[Part]:
        """Split groups into a part for each slot."""
        return by_slot(groups)

    def server_of(self, place: Place) -> object:
        """Return the server that has a slot; None if it is known to be away."""
        server = self._topology.owners[place] if isinstance(place, int) and place != EVERYWHERE else None
        return None if server is not None and server.away else server or place

    def _apply(self, batch: Batch, on_counts: OnCounts) -> None:
        if batch.place == EVERYWHERE:
            self._apply_in_parts(batch, by_slot(batch.groups), on_counts)
        else:
            self._apply_in_one_call(batch, on_counts)

    def apply_each(self, batches: Sequence[Batch], on_applied: OnEachApplied) -> None:
        """Apply batches, each by itself (layers/backend.py). The calls for one server are sent together."""
        pipelines: dict[ClusterServer, Pipeline] = {}
        for number, batch in enumerate(batches):
            slot = int(batch.place)
            server = self._topology.owners[slot] if slot != EVERYWHERE else None
            if server is None or server.away:
                self.apply(batch, partial(on_applied, number))
                continue
            pipeline = pipelines.get(server)
            if pipeline is None:
                on_other_reply = partial(self._on_other_reply, server)
                pipeline = pipelines[server] = Pipeline(self._observe, on_applied, on_other_reply)
            pipeline.add(number, batch, self._prefix)
        for server, pipeline in pipelines.items():
            server.used = monotonic()
            self._in_flight.begin()
            pipeline.send(server.wire, self._in_flight.end)

    def _on_other_reply(
        self, server: ClusterServer, batch: Batch, call: ScriptCall | None, reply: Any, on_applied: OnApplied
    ) -> None:
        """Handle a reply to a call of a pipeline that is not the count of a plain batch."""
        of_script = call or self._call(batch)
        self._in_flight.begin()

        def on_last_reply(reply: Any) -> None:
            try:
                outcome = self._counts(of_script, reply)
                on_applied(self._on_error(outcome) if isinstance(outcome, Exception) else outcome)
            finally:
                self._in_flight.end()

        self._on_first_reply(int(batch.place), of_script.command, on_last_reply, server, reply)

    def _on_error(self, error: Exception) -> StoreError:
        return failure(error, partly=not self._topology.all_away)

    def _evaluate(self, place: Place, command: Command, on_reply: OnReply) -> None:
        """Run the script on the server that has a slot; a task is only created after an error."""
        slot = int(place)
        server = self._topology.owners[slot]
        if server is None or server.away:
            on_reply(self._unreachable(slot, server))
            return
        server.used = monotonic()

        server.wire.call(command, partial(self._on_first_reply, slot, command, on_reply, server))

    def _on_first_reply(
        self, slot: int, command: Command, on_reply: OnReply, server: ClusterServer, reply: Any
    ) -> None:
        if isinstance(reply, NoScriptError):
            on_next_reply = partial(self._pass_or_follow, slot, command, on_reply, server)
            evaluate_whole(server.wire, command, on_next_reply)
        else:
            self._pass_or_follow(slot, command, on_reply, server, reply)

    def _pass_or_follow(
        self, slot: int, command: Command, on_reply: OnReply, server: ClusterServer, reply: Any
    ) -> None:
        """Pass a reply on, unless it is an error: a task continues the call then."""
        if isinstance(reply, Exception):
            task = asyncio.get_running_loop().create_task(
                self._follow(slot, command, on_reply, server, reply)
            )
            self._following.add(task)
            task.add_done_callback(self._following.discard)
        else:
            on_reply(reply)

    async def _follow(
        self, slot: int, command: Command, on_reply: OnReply, server: ClusterServer, error: Exception
    ) -> None:
        """Continue a call that got an error from a server."""

        def send(server: ClusterServer, asking: bool) -> Awaitable[Any]:
            return reply_to(lambda on_reply: evaluate(server.wire, command, on_reply, asking=asking))

        try:
            reply = await self._redirected(slot, send, server, error)
        except Exception as raised:
            reply = bare(raised)
        on_reply(reply)

    async def _redirected(
        self,
        slot: int,
        send: Callable[[ClusterServer, bool], Awaitable[T]],
        server: ClusterServer | None = None,
        error: Exception | None = None,
    ) -> T:
        """Return the result of `send` to the server that has the slot, following redirects.

        If `server` has already answered with `error`, continue from there.
        """
        asking = tried_again = False
        for _ in range(_MOST_REDIRECTS):
            if error is None:
                server = server or self._topology.owners[slot]
                if server is None or server.away:
                    raise self._unreachable(slot, server)
                server.used = monotonic()
                try:
                    return await send(server, asking)
                except (RedisError, OSError) as raised:
                    error = bare(raised)
            assert server is not None
            if isinstance(error, TryAgainError):  # some of the keys have moved, and some have not yet
                if tried_again:
                    raise error
                await asyncio.sleep(_TRY_AGAIN)
                server, asking, tried_again = None, False, True
            else:
                server, asking = self._next_server(slot, server, error)
            error = None
        raise NotSent(RedisConnectionError(f"slot {slot} is on its way between servers"))

    def _next_server(self, slot: int, server: ClusterServer, error: Exception) -> tuple[ClusterServer, bool]:
        """Return the server to send a call to that got `error` from `server`, and whether to send ASKING
        first.

        Raises the error if no other server is to be tried.
        """
        if isinstance(error, MovedError):
            server = self._topology.server_at((error.host or server.address[0], error.port))
            self._topology.owners[slot] = server
            self._topology.repair()  # other slots will have moved as well
            return server, False
        if isinstance(error, AskError):
            return self._topology.server_at((error.host or server.address[0], error.port)), True
        if isinstance(error, ClusterDownError):
            self._topology.repair()
        elif isinstance(error, _SILENT):
            server.away = True
            self._topology.repair()
            if not str(error):
                error = RedisConnectionError(f"{server} does not answer")
        raise error

    def _unreachable(self, slot: int, server: ClusterServer | None) -> Exception:
        """Return the error of a call for a slot whose server is unknown or away."""
        if server is None:
            self._topology.repair()
            return NotSent(RedisConnectionError(f"no server of the Cluster has slot {slot}"))
        return NotSent(RedisConnectionError(f"{server} is away"))

    async def start(self) -> None:
        """Learn which server has which slot, and greet all primaries.

        Raises StoreError if none of them answers.
        """
        await self.ping()

    async def ping(self) -> None:
        """Learn the slots again, and greet all primaries that are not known to be away.

        Raises StoreError if no server reports the slots, or no primary answers.
        """
        try:
            await self._topology.learn()
        except Exception as error:
            raise failure(error) from None
        first = self._topology.all_away
        await asyncio.gather(
            *[self._topology.greet(each) for each in self._topology.primaries if first or not each.away]
        )
        if self._topology.all_away:
            self._topology.repair()
            raise StoreError("Redis: no primary of the Cluster can be reached")

    async def close(self) -> None:
        """Wait for the batches in flight, then close the connections."""
        await self._in_flight.drained()
        await self._topology.close()

    async def time(self) -> float | None:
        """Return the time of one server (layers/backend.py); their clocks should agree to the second."""
        for server in self._topology.primaries:
            if not server.away:
                return await time_of(server.client)
        return None

    def servers(self) -> dict[str, aioredis.Redis]:
        """Return a client of each primary that answers, by its address."""
        return {str(server): server.client for server in self._topology.primaries if not server.away}

    def register_on(self, server: str, lane: str) -> str:
        """Return the key of a lane's register in the first slot that a server has."""
        slot = next(
            (slot for slot, owner in enumerate(self._topology.owners) if owner and str(owner) == server), 0
        )
        return register(self._prefix, lane, tag_in(slot))

    async def _run(self, what: Evaluation) -> Any:
        if not self._topology.servers:
            await self.ping()
        slot = slot_of(what.keys[0])
        return await self._redirected(slot, lambda server, asking: run_at(server.wire, what, asking=asking))

    async def walk(self, begin: str, part: str = "", position: str = "") -> WalkStep:
        """Return some keys of one primary, of one primary after another (ports.CounterStore.walk)."""
        if not self._topology.servers:
            await self.ping()
        primaries = sorted(self._topology.primaries, key=str)
        address, blank, cursor = position.rpartition(" ")
        read_number(cursor if blank else position or "0", HIGHEST_CURSOR + 1)
        left = [each for each in primaries if str(each) >= address]
        if not left:
            return WalkStep((), "")
        server = left[0]
        if server.away:
            raise StoreError(f"Redis: {server} is away")
        # Where the server of this position is gone, the next one is walked from its beginning.
        keys, following = await walk(server.wire, begin, part, cursor if str(server) == address else "0")
        if following:
            return WalkStep(keys, f"{server} {following}")
        return WalkStep(keys, f"{left[1]} 0" if len(left) > 1 else "")

    async def read_counters(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return those of these counters that are there."""
        try:
            return counters_in(await self._read_each(keys, "GET"))
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def read_holds(self, keys: Sequence[str], now: int) -> dict[str, int]:
        """Return the held tokens under these keys."""
        try:
            return holds_in(await self._read_each(keys, "HGETALL"), now)
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def _read_each(self, keys: Sequence[str], command: str) -> dict[str, Any]:
        """Return the reply to a command for each key, from the server that has it."""
        if not self._topology.servers:
            await self.ping()
        by_server: dict[ClusterServer, list[str]] = {}
        for key in keys:
            slot = slot_of(key)
            server = self._topology.owners[slot]
            if server is None or server.away:
                raise StoreError(f"Redis: the server that has slot {slot} is away")
            by_server.setdefault(server, []).append(key)
        replies: dict[str, Any] = {}
        for server, some in by_server.items():
            replies |= await read_each(server.wire, some, command)
        for key in [key for key, reply in replies.items() if isinstance(reply, _MOVING)]:
            replies[key] = await self._read_moving(key, command)
        return replies

    async def _read_moving(self, key: str, command: str) -> Any:
        """Return the value of a key whose slot is on its way to another server, or has arrived there."""

        async def send(server: ClusterServer, asking: bool) -> Any:
            if asking:
                server.wire.call(("ASKING",), ignore)
            return await server.wire.ask(command, key)

        return await self._redirected(slot_of(key), send)

    async def read_books(self, keys: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Return the entries in these books."""
        try:
            return entries_in(await self._read_each(keys, "HGETALL"))
        except (RedisError, OSError) as error:
            raise failure(error) from None

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters of a bucket, by key. Walks through all keys of the server that has its slot."""
        if not self._topology.servers:
            await self.ping()
        slot = slot_of(bucket)
        server = self._topology.owners[slot]
        if server is None or server.away:
            raise StoreError(f"Redis: the server that has slot {slot} is away")

        async def get(key: str) -> Any:
            async def send(server: ClusterServer, asking: bool) -> Any:
                pipeline = server.client.pipeline(transaction=False)
                if asking:
                    pipeline.execute_command("ASKING")
                pipeline.execute_command("GET", key)
                return (await pipeline.execute())[-1]

            return await self._redirected(slot, send)

        return await counters_on(server.client, bucket, get)
