"""Counters in a Redis Cluster: one script call for each slot, over one connection to each server.

redis-py's own client of a Cluster sends a command again after errors that do not say whether it was carried
out, and closes every connection when a slot has moved. So only its connections are used. A call is sent again
only where the reply says that it was not carried out: MOVED, ASK, TRYAGAIN and NOSCRIPT. layers/settling.py
deals with every other failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import redis.asyncio as aioredis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    InvalidResponse,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...core.errors import StoreError
from ...runtime.tasks import Background
from ..batch import Batch, Groups, Part
from ..lanes import EVERYWHERE, Place
from .amendments import Evaluation, run_at
from .client import Address, close, time_of
from .errors import NotSent, bare, failure
from .held import counters_on
from .script import evaluate, register
from .slots import SLOTS, by_slot, slot_of, tag_in
from .store import OnCounts, ScriptStore
from .wire import Command, OnReply, Wire, reply_to

_SILENT = (RedisConnectionError, RedisTimeoutError, OSError)  # asyncio's TimeoutError is an OSError

Connect = Callable[[Address], aioredis.Redis]
T = TypeVar("T")

_MOST_REDIRECTS = 6
"""How often a call follows a redirect before it fails, and is settled later."""

_TRY_AGAIN = 0.002
"""Seconds until a call for a moving slot is repeated, once: other calls of the batch wait for its outcome."""

_AFTER_A_MISTAKE = 10.0
"""Seconds until the next attempt after an unexpected exception: each one puts a traceback in the log."""

_TASK = "cluster_slots"
"""The task name under which failures to learn the slots are counted."""

_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.5
"""Seconds between two attempts to learn the slots while a primary is away: the first pause, and the
longest."""

_KEPT = 30.0
"""Seconds after its last call until the connections to a server without slots are closed."""


class ClusterServer:
    """A server that has slots, or had some, or is just getting one.

    While it is `away`, no calls are sent to it. `used` is when the last one was sent, in the loop's time.
    """

    def __init__(self, address: Address, client: aioredis.Redis, patience: float) -> None:
        self.address = address
        self.client = client
        self.wire = Wire(client, patience)
        self.away = False
        self.used = 0.0

    def __str__(self) -> str:
        return "{}:{}".format(*self.address)


class ClusterStore(ScriptStore):
    """Counters in a Cluster, some servers of which are at `seeds`. `connect` makes the client of a server.

    Where a server is silent for `patience` seconds, its calls fail as lost, and it gets no others until it
    answers. They may still be carried out, which layers/settling.py allows for.
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
        self._background = background or Background()
        self._background.expect(_TASK)
        self._patience = patience
        self._connect = connect
        self._seeds = tuple(seeds)
        self._servers: dict[Address, ClusterServer] = {}
        self._primaries: frozenset[ClusterServer] = frozenset()
        self._replicas: tuple[Address, ...] = ()
        self._owners: list[ClusterServer | None] = [None] * SLOTS
        self._repairing: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def split(self, groups: Groups) -> Sequence[Part]:
        """Split groups into a part for each slot."""
        return by_slot(groups)

    def server_of(self, place: Place) -> object:
        """Return the server that has a slot; None where it is known to be away."""
        server = self._owners[place] if isinstance(place, int) and place != EVERYWHERE else None
        return None if server is not None and server.away else server or place

    def _apply(self, batch: Batch, on_counts: OnCounts) -> None:
        if batch.place == EVERYWHERE:
            self._apply_in_parts(batch, by_slot(batch.groups), on_counts)
        else:
            self._apply_in_one_call(batch, on_counts)

    def _on_error(self, error: Exception) -> StoreError:
        return failure(error, partly=not self._all_away())

    def _all_away(self) -> bool:
        return all(server.away for server in self._primaries)

    def _evaluate(self, place: Place, command: Command, on_reply: OnReply) -> None:
        """Run the script on the server that has a slot; only an error costs a task."""
        slot = int(place)
        server = self._owners[slot]
        if server is None or server.away:
            on_reply(self._unreachable(slot, server))
            return
        server.used = asyncio.get_running_loop().time()

        def on_first_reply(reply: Any) -> None:
            if isinstance(reply, Exception):
                task = asyncio.get_running_loop().create_task(
                    self._follow(slot, command, on_reply, server, reply)
                )
                self._following.add(task)
                task.add_done_callback(self._following.discard)
            else:
                on_reply(reply)

        evaluate(server.wire, command, on_first_reply)

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
        """Return what `send` gets from the server that has the slot, wherever that turns out to be.

        Where `server` has answered with `error` already, continue from there.
        """
        asking = tried_again = False
        for _ in range(_MOST_REDIRECTS):
            if error is None:
                server = server or self._owners[slot]
                if server is None or server.away:
                    raise self._unreachable(slot, server)
                server.used = asyncio.get_running_loop().time()
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
        """Return where to send a call that got `error` from `server`, and whether with ASKING.

        Raises it where nowhere.
        """
        if isinstance(error, MovedError):
            server = self._server((error.host or server.address[0], error.port))
            self._owners[slot] = server
            self._repair()  # other slots will have moved as well
            return server, False
        if isinstance(error, AskError):
            return self._server((error.host or server.address[0], error.port)), True
        if isinstance(error, ClusterDownError):
            self._repair()
        elif isinstance(error, _SILENT):
            server.away = True
            self._repair()
            if not str(error):
                error = RedisConnectionError(f"{server} does not answer")
        raise error

    def _unreachable(self, slot: int, server: ClusterServer | None) -> Exception:
        """Return the error of a call for a slot whose server is unknown or away."""
        if server is None:
            self._repair()
            return NotSent(RedisConnectionError(f"no server of the Cluster has slot {slot}"))
        return NotSent(RedisConnectionError(f"{server} is away"))

    async def start(self) -> None:
        """Learn which server has which slot, and greet all primaries.

        Raises StoreError where none of them answers.
        """
        await self.ping()

    async def _greet(self, server: ClusterServer) -> None:
        """Check whether a server answers, over the connection that counts, which that keeps alive."""
        try:
            if await server.wire.ask("PING") != b"PONG":
                raise InvalidResponse("PING was answered with something else than PONG")
        except ResponseError:
            server.away = False  # an ACL, for example, which says nothing about script calls
        except (RedisError, OSError):
            server.away = True
            self._repair()
        else:
            server.away = False

    async def ping(self) -> None:
        """Learn the slots anew, and greet all primaries that are not known to be away.

        Raises StoreError where no server reports the slots, or no primary answers.
        """
        try:
            await self._learn()
        except Exception as error:
            raise failure(error) from None
        first = self._all_away()
        await asyncio.gather(*[self._greet(each) for each in self._primaries if first or not each.away])
        if self._all_away():
            self._repair()
            raise StoreError("Redis: no primary of the Cluster can be reached")

    async def close(self) -> None:
        """Wait for the batches in flight, then close the connections."""
        await self._in_flight.drained()
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.wait([self._repairing])
        if self._closing:
            await asyncio.wait(self._closing)
        for server in self._servers.values():
            await server.wire.close()

    async def time(self) -> float | None:
        """Return the seconds of one server's clock (layers/backend.py); all should agree to the second."""
        for server in self._primaries:
            if not server.away:
                return await time_of(server.client)
        return None

    def servers(self) -> dict[str, aioredis.Redis]:
        """Return a client of each primary that answers, by its address."""
        return {str(server): server.client for server in self._primaries if not server.away}

    def register_on(self, server: str, lane: str) -> str:
        """Return the key of a lane's register in the first slot that a server has."""
        slot = next((slot for slot, owner in enumerate(self._owners) if owner and str(owner) == server), 0)
        return register(self._prefix, lane, tag_in(slot))

    async def _run(self, what: Evaluation) -> Any:
        if not self._servers:
            await self.ping()
        slot = slot_of(what.keys[0])
        return await self._redirected(slot, lambda server, asking: run_at(server.client, what, asking=asking))

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """Return the counters of a bucket, by key. Walks through all keys of the server that has its slot."""
        return await self._for_counters(bucket, "GET")

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket, and return their last values, by key."""
        return await self._for_counters(bucket, "GETDEL")

    async def _for_counters(self, bucket: str, command: str) -> dict[str, int | None]:
        """Return what a command returns for each counter of a bucket."""
        if not self._servers:
            await self.ping()
        slot = slot_of(bucket)
        server = self._owners[slot]
        if server is None or server.away:
            raise StoreError(f"Redis: the server that has slot {slot} is away")

        async def get(key: str) -> Any:
            async def send(server: ClusterServer, asking: bool) -> Any:
                pipeline = server.client.pipeline(transaction=False)
                if asking:
                    pipeline.execute_command("ASKING")
                pipeline.execute_command(command, key)
                return (await pipeline.execute())[-1]

            return await self._redirected(slot, send)

        return await counters_on(server.client, bucket, get)

    # Which server has which slot.

    def _server(self, address: Address) -> ClusterServer:
        server = self._servers.get(address)
        if server is None:
            server = ClusterServer(address, self._connect(address), self._patience)
            self._servers[address] = server
        return server

    def _repair(self) -> None:
        """Learn the slots again and again, until all primaries answer."""
        if self._repairing is None:
            self._repairing = asyncio.get_running_loop().create_task(self._learn_until_all_answer())

    async def _learn_until_all_answer(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    await self._learn()
                    await asyncio.gather(*[self._greet(each) for each in self._primaries if each.away])
                except (RedisError, OSError) as error:
                    self._log.debug("no server of the Cluster answers", error=str(error))
                except Exception as error:  # a reply that cannot be parsed, for example
                    self._background.failed(_TASK, "the slots of the Cluster could not be learnt", error)
                    pause = _AFTER_A_MISTAKE
                await asyncio.sleep(pause)
                if not any(server.away for server in self._primaries):
                    return
                pause = min(2 * pause, _LAST_PAUSE)
        finally:
            self._repairing = None

    async def _learn(self) -> None:
        """Ask one server after another for the slots, until one reports them.

        Raises the error of the last one.
        """
        error: Exception = RedisConnectionError("no server of the Cluster is known")
        for address in self._to_ask():
            known = self._servers.get(address)
            client = self._connect(address) if known is None else known.client
            try:
                slots = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as raised:
                error = raised
                continue
            finally:
                if known is None:
                    await close(client)
            if slots:
                self._use(address, slots)
                return
        raise error

    def _to_ask(self) -> Iterator[Address]:
        """Yield the address of each known server once, those that are likely to answer first."""
        well = [server.address for server in self._primaries if not server.away]
        away = [server.address for server in self._servers.values() if server.away]
        yield from dict.fromkeys((*well, *self._replicas, *self._seeds, *away))

    def _use(self, queried: Address, slots: Sequence[Any]) -> None:
        """Take over the reply to CLUSTER SLOTS: the first slot, the last slot, the primary, its replicas."""
        owners: list[ClusterServer | None] = [None] * SLOTS
        replicas: list[Address] = []
        for first, last, primary, *others in slots:
            owner = self._server(_address(primary, queried))
            owners[first : last + 1] = [owner] * (last + 1 - first)
            replicas += [_address(other, queried) for other in others]
        self._owners = owners
        self._primaries = frozenset(owner for owner in owners if owner is not None)
        self._replicas = tuple(dict.fromkeys(replicas))
        loop = asyncio.get_running_loop()
        for address, server in list(self._servers.items()):
            if server not in self._primaries and server.used + _KEPT < loop.time():
                del self._servers[address]
                task = loop.create_task(server.wire.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)


def _address(server: Sequence[Any], queried: Address) -> Address:
    """Return the address of a server in CLUSTER SLOTS.

    An empty host means the host of the server that was queried.
    """
    host = server[0].decode() if server[0] else ""
    return (host if host not in ("", "?") else queried[0], int(server[1]))
