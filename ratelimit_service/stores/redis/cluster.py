"""Counters in a Redis Cluster: one script call for each slot, by one connection to each server, the servers in parallel.

redis-py has a client for this, which sends a command again after an error that does not say whether it was carried out,
and closes every connection when a slot has moved. So only its connections are used. A call is sent again only where the
reply says that it was not carried out: MOVED, ASK, TRYAGAIN and NOSCRIPT. What else fails is for layers/settling.py.
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
from ...core.model import Hit
from ...runtime.tasks import Background
from ..batch import EVERYWHERE, Batch, Part, Place
from .client import Address, close, time_of
from .errors import NotSent, bare, failure
from .held import held
from .script import Arguments, Counts, evaluate, register
from .server import ScriptStore
from .slots import SLOTS, by_slot, slot_of, tag_in
from .wire import Answered, Wire, asked

_SILENT = (RedisConnectionError, RedisTimeoutError, OSError)  # asyncio's TimeoutError is an OSError

Connect = Callable[[Address], aioredis.Redis]
T = TypeVar("T")

_MOST_REDIRECTS = 6
"""How often a call is sent on before it is given up (and settled later)."""

_TRY_AGAIN = 0.002
"""Seconds until a slot that is half way is tried once more. Others wait for the answer, so there is no third time."""

_AFTER_A_MISTAKE = 10.0
"""The same where something failed that should not: each time is a traceback in the log."""

_TASK = "cluster_slots"
"""What failures of asking the Cluster for its slots are counted under."""

_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.5
"""Seconds between two looks at a Cluster that is not well: from, to."""

_KEPT = 30.0
"""Seconds after its last call until the connections to a server that has no slots are closed."""


class Node:
    """A server that has slots, or had, or is just being given one.

    While it is `away`, no calls are sent to it. `used` is when one was sent last, in the loop's time.
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

    A server of which nothing is heard for `patience` seconds holds nobody up any longer: its calls count as lost, though they
    may still be carried out, which layers/settling.py allows for; and it gets no others until it answers.
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
        self._nodes: dict[Address, Node] = {}
        self._primaries: frozenset[Node] = frozenset()
        self._replicas: tuple[Address, ...] = ()
        self._owners: list[Node | None] = [None] * SLOTS
        self._mending: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def parts(self, groups: Sequence[Sequence[Hit]]) -> Sequence[Part]:
        """A part for each slot."""
        return by_slot(groups)

    def server_of(self, where: Place) -> object:
        """The server that has a slot; None where it is known to be away."""
        node = self._owners[where] if isinstance(where, int) and where != EVERYWHERE else None
        return None if node is not None and node.away else node or where

    def _apply(self, batch: Batch, then: Callable[[Counts | Exception], None]) -> None:
        if batch.where == EVERYWHERE:
            self._apply_in_parts(batch, by_slot(batch.groups), then)
        else:
            super()._apply(batch, then)

    def _failure(self, error: Exception) -> StoreError:
        return failure(error, partly=not self._all_away())

    def _all_away(self) -> bool:
        return all(node.away for node in self._primaries)

    def _evaluate(self, where: Place, arguments: Arguments, then: Answered) -> None:
        """Run the script on the server that has the slot; a task only where that is not the end of it."""
        slot = int(where)
        node = self._owners[slot]
        if node is None or node.away:
            then(self._nobody(slot, node))
            return
        node.used = asyncio.get_running_loop().time()

        def answered(reply: Any) -> None:
            if isinstance(reply, Exception):
                task = asyncio.get_running_loop().create_task(
                    self._follow(slot, arguments, then, node, reply)
                )
                self._following.add(task)
                task.add_done_callback(self._following.discard)
            else:
                then(reply)

        evaluate(node.wire, arguments, answered)

    async def _follow(
        self, slot: int, arguments: Arguments, then: Answered, node: Node, wrong: Exception
    ) -> None:
        """Go on where a call went wrong."""

        def send(node: Node, asking: bool) -> Awaitable[Any]:
            return asked(lambda then: evaluate(node.wire, arguments, then, asking=asking))

        try:
            reply = await self._redirected(slot, send, node, wrong)
        except Exception as error:
            reply = bare(error)
        then(reply)

    async def _redirected(
        self,
        slot: int,
        send: Callable[[Node, bool], Awaitable[T]],
        node: Node | None = None,
        wrong: Exception | None = None,
    ) -> T:
        """What `send` gets of the server that has the slot, wherever that turns out to be.

        Where it was sent to `node` before, and `wrong` is what came of it, go on from there.
        """
        asking = half_way = False
        for _ in range(_MOST_REDIRECTS):
            if wrong is None:
                node = node or self._owners[slot]
                if node is None or node.away:
                    raise self._nobody(slot, node)
                node.used = asyncio.get_running_loop().time()
                try:
                    return await send(node, asking)
                except (RedisError, OSError) as error:
                    wrong = bare(error)
            assert node is not None
            if isinstance(wrong, TryAgainError):  # some of the keys have moved, and some have not yet
                if half_way:
                    raise wrong
                await asyncio.sleep(_TRY_AGAIN)
                node, asking, half_way = None, False, True
            else:
                node, asking = self._instead(slot, node, wrong)
            wrong = None
        raise NotSent(RedisConnectionError(f"slot {slot} is on its way between servers"))

    def _instead(self, slot: int, node: Node, wrong: Exception) -> tuple[Node, bool]:
        """Where to send what went wrong at `node`, and whether to ask for it there. Raises where that is nowhere."""
        if isinstance(wrong, MovedError):
            node = self._node((wrong.host or node.address[0], wrong.port))
            self._owners[slot] = node
            self._mend()  # where one slot has moved, others will have
            return node, False
        if isinstance(wrong, AskError):
            return self._node((wrong.host or node.address[0], wrong.port)), True
        if isinstance(wrong, ClusterDownError):
            self._mend()
        elif isinstance(wrong, _SILENT):
            node.away = True
            self._mend()
            if not str(wrong):
                wrong = RedisConnectionError(f"{node} does not answer")
        raise wrong

    def _nobody(self, slot: int, node: Node | None) -> Exception:
        """Why nothing is sent for a slot."""
        if node is None:
            self._mend()
            return NotSent(RedisConnectionError(f"no server of the Cluster has slot {slot}"))
        return NotSent(RedisConnectionError(f"{node} is away"))

    async def start(self) -> None:
        """Learn who has which slot, and greet all primaries. Raises StoreError where none of them answers."""
        await self.ping()

    async def _greet(self, node: Node) -> None:
        """See whether the server answers, by the connection that counts, and keep that one alive."""
        try:
            if await node.wire.ask("PING") != b"PONG":
                raise InvalidResponse("PING was answered with something else than PONG")
        except ResponseError:
            node.away = False  # an ACL, say: what becomes of script calls is theirs to say
        except (RedisError, OSError):
            node.away = True
            self._mend()
        else:
            node.away = False

    def _insist(self) -> None:
        if self._all_away():
            self._mend()
            raise StoreError("Redis: no primary of the Cluster can be reached")

    async def ping(self) -> None:
        """Learn anew who has which slot, and greet all primaries that are not known to be away.

        Raises StoreError where no server says who has what, or no primary answers.
        """
        try:
            await self._learn()
        except Exception as error:
            raise failure(error) from None
        first = self._all_away()
        await asyncio.gather(*[self._greet(node) for node in self._primaries if first or not node.away])
        self._insist()

    async def close(self) -> None:
        """Wait for the hits under way, then close the connections."""
        await self._finish()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait([self._mending])
        if self._closing:
            await asyncio.wait(self._closing)
        for node in self._nodes.values():
            await node.wire.close()

    async def time(self) -> float | None:
        """Seconds by the clock of a server (layers/backend.py); they are expected to agree to the second."""
        for node in self._primaries:
            if not node.away:
                return await time_of(node.client)
        return None

    def servers(self) -> dict[str, aioredis.Redis]:
        """A client of each primary that answers, by its address."""
        return {str(node): node.client for node in self._primaries if not node.away}

    def register_on(self, server: str, lane: str) -> str:
        """The key of a lane's register in the first slot that a server has."""
        slot = next((slot for slot, node in enumerate(self._owners) if node and str(node) == server), 0)
        return register(self._prefix, lane, tag_in(slot))

    async def read_bucket(self, bucket: str) -> dict[str, int | None]:
        """What the counters of a bucket hold, by key. Walks through all keys of the server that has its slot."""
        return await self._held(bucket, "GET")

    async def delete_bucket(self, bucket: str) -> dict[str, int | None]:
        """Delete the counters of a bucket; returns what they held, by key."""
        return await self._held(bucket, "GETDEL")

    async def _held(self, bucket: str, command: str) -> dict[str, int | None]:
        if not self._nodes:
            await self.ping()
        slot = slot_of(bucket)
        node = self._owners[slot]
        if node is None or node.away:
            raise StoreError(f"Redis: the server that has slot {slot} is away")

        async def get(key: str) -> Any:
            async def send(node: Node, asking: bool) -> Any:
                pipeline = node.client.pipeline(transaction=False)
                if asking:
                    pipeline.execute_command("ASKING")
                pipeline.execute_command(command, key)
                return (await pipeline.execute())[-1]

            return await self._redirected(slot, send)

        return await held(node.client, bucket, get)

    # Who has which slot.

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._connect(address), self._patience)
        return node

    def _mend(self) -> None:
        """Go on asking who has which slot, until all primaries answer."""
        if self._mending is None:
            self._mending = asyncio.get_running_loop().create_task(self._go_on_asking())

    async def _go_on_asking(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    await self._learn()
                    await asyncio.gather(*[self._greet(node) for node in self._primaries if node.away])
                except (RedisError, OSError) as error:
                    self._log.debug("no server of the Cluster answers", error=str(error))
                except Exception as error:  # a reply that cannot be parsed, for example
                    self._background.failed(_TASK, "the slots of the Cluster could not be learnt", error)
                    pause = _AFTER_A_MISTAKE
                await asyncio.sleep(pause)
                if not any(node.away for node in self._primaries):
                    return
                pause = min(2 * pause, _LAST_PAUSE)
        finally:
            self._mending = None

    async def _learn(self) -> None:
        wrong: Exception = RedisConnectionError("no server of the Cluster is known")
        for address in self._to_ask():
            node = self._nodes.get(address)
            client = self._connect(address) if node is None else node.client
            try:
                slots = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                wrong = error
                continue
            finally:
                if node is None:
                    await close(client)
            if slots:
                self._use(address, slots)
                return
        raise wrong

    def _to_ask(self) -> Iterator[Address]:
        """Those who are likely to answer first, and each once."""
        well = [node.address for node in self._primaries if not node.away]
        ill = [node.address for node in self._nodes.values() if node.away]
        yield from dict.fromkeys((*well, *self._replicas, *self._seeds, *ill))

    def _use(self, asked: Address, slots: Sequence[Any]) -> None:
        """Take over what CLUSTER SLOTS replied: first slot, last slot, the primary, its replicas."""
        owners: list[Node | None] = [None] * SLOTS
        replicas: list[Address] = []
        for first, last, primary, *others in slots:
            node = self._node(_address(primary, asked))
            owners[first : last + 1] = [node] * (last + 1 - first)
            replicas += [_address(other, asked) for other in others]
        self._owners = owners
        self._primaries = frozenset(node for node in owners if node is not None)
        self._replicas = tuple(dict.fromkeys(replicas))
        loop = asyncio.get_running_loop()
        for address, node in list(self._nodes.items()):
            if node not in self._primaries and node.used + _KEPT < loop.time():
                del self._nodes[address]
                task = loop.create_task(node.wire.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)


def _address(server: Sequence[Any], asked: Address) -> Address:
    """Of a server in CLUSTER SLOTS; one that does not say its host has that of the one that was asked."""
    host = server[0].decode() if server[0] else ""
    return (host if host not in ("", "?") else asked[0], int(server[1]))
