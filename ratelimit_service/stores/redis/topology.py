"""The servers of a Redis Cluster: their slots, which of them are away, and how that is learned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from ...runtime.tasks import Background
from .client import Address, close
from .slots import SLOTS
from .wire import Wire

Connect = Callable[[Address], aioredis.Redis]

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
    """A server that has slots, had some, or is receiving one.

    While it is `away`, no calls are sent to it. `used` is when the last one was sent, by the monotonic clock.
    """

    def __init__(self, address: Address, client: aioredis.Redis, patience: float) -> None:
        self.address = address
        self.client = client
        self.wire = Wire(client, patience)
        self.away = False
        self.used = 0.0

    def __str__(self) -> str:
        return "{}:{}".format(*self.address)


class Topology:
    """The servers of a Cluster, found through those at `seeds`. `connect` makes the client of a server."""

    def __init__(
        self,
        connect: Connect,
        seeds: Sequence[Address],
        patience: float = 0.25,
        background: Background | None = None,
    ) -> None:
        self.owners: list[ClusterServer | None] = [None] * SLOTS
        """The server of each slot, as far as it is known."""
        self.primaries: frozenset[ClusterServer] = frozenset()
        self.servers: dict[Address, ClusterServer] = {}
        """Every server with a connection."""
        self._replicas: tuple[Address, ...] = ()
        self._connect = connect
        self._seeds = tuple(seeds)
        self._patience = patience
        self._background = background or Background()
        self._background.expect(_TASK)
        self._repairing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("ratelimit_service.store")

    @property
    def all_away(self) -> bool:
        """Whether no primary is known to answer."""
        return all(server.away for server in self.primaries)

    def server_at(self, address: Address) -> ClusterServer:
        """Return the server at an address, known or new."""
        server = self.servers.get(address)
        if server is None:
            server = ClusterServer(address, self._connect(address), self._patience)
            self.servers[address] = server
        return server

    async def greet(self, server: ClusterServer) -> None:
        """Check whether a server answers.

        This uses the connection of the script calls, and so keeps it alive.
        """
        try:
            if await server.wire.ask("PING") != b"PONG":
                raise InvalidResponse("PING was answered with something else than PONG")
        except ResponseError:
            server.away = False  # such as NOPERM: script calls may be allowed
        except (RedisError, OSError):
            server.away = True
            self.repair()
        else:
            server.away = False

    def repair(self) -> None:
        """Learn the slots again and again, until all primaries answer."""
        if self._repairing is None:
            self._repairing = asyncio.get_running_loop().create_task(self._learn_until_all_answer())

    async def close(self) -> None:
        """Close all connections."""
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.wait([self._repairing])
        if self._closing:
            await asyncio.wait(self._closing)
        for server in self.servers.values():
            await server.wire.close()

    async def _learn_until_all_answer(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    await self.learn()
                    await asyncio.gather(*[self.greet(each) for each in self.primaries if each.away])
                except (RedisError, OSError) as error:
                    self._log.debug("no server of the Cluster answers", error=str(error))
                except Exception as error:  # a reply that cannot be parsed, for example
                    self._background.failed(_TASK, "the slots of the Cluster could not be learnt", error)
                    pause = _AFTER_A_MISTAKE
                await asyncio.sleep(pause)
                if not any(server.away for server in self.primaries):
                    return
                pause = min(2 * pause, _LAST_PAUSE)
        finally:
            self._repairing = None

    async def learn(self) -> None:
        """Query one server after another for the slots, until one reports them.

        Raises the error of the last one.
        """
        error: Exception = RedisConnectionError("no server of the Cluster is known")
        for address in self.to_ask():
            known = self.servers.get(address)
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
                self.use(address, slots)
                return
        raise error

    def to_ask(self) -> Iterator[Address]:
        """Yield the address of each known server once, beginning with those that are likely to answer."""
        well = [server.address for server in self.primaries if not server.away]
        away = [server.address for server in self.servers.values() if server.away]
        yield from dict.fromkeys((*well, *self._replicas, *self._seeds, *away))

    def use(self, queried: Address, slots: Sequence[Any]) -> None:
        """Apply a reply to CLUSTER SLOTS; each row has the first slot, the last slot, the primary and its
        replicas.
        """
        owners: list[ClusterServer | None] = [None] * SLOTS
        replicas: list[Address] = []
        for first, last, primary, *others in slots:
            owner = self.server_at(_address(primary, queried))
            owners[first : last + 1] = [owner] * (last + 1 - first)
            replicas += [_address(other, queried) for other in others]
        self.owners = owners
        self.primaries = frozenset(owner for owner in owners if owner is not None)
        self._replicas = tuple(dict.fromkeys(replicas))
        loop = asyncio.get_running_loop()
        for address, server in list(self.servers.items()):
            if server not in self.primaries and server.used + _KEPT < monotonic():
                del self.servers[address]
                task = loop.create_task(server.wire.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)


def _address(server: Sequence[Any], queried: Address) -> Address:
    """Return the address of a server in CLUSTER SLOTS.

    An empty host means the host of the server that was queried.
    """
    host = server[0].decode() if server[0] else ""
    return (host if host not in ("", "?") else queried[0], int(server[1]))
