"""Replies that cannot be parsed are errors like others, whether Redis or another server sent them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.runtime.tasks import Background
from ratelimit_service.stores.redis import topology
from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.slots import SLOTS
from ratelimit_service.stores.redis.wire import Wire
from testing.redis_clients import connect
from testing.waiting import until

NONSENSE = {
    "no type": b"nonsense\r\n",
    "moved nowhere": b"-MOVED nonsense\r\n",
    "moved to no port": b"-MOVED 1 :\r\n",
    "asked nowhere": b"-ASK 1\r\n",
    "no number": b":one\r\n",
}
each = pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)


class Answering:
    """A server that answers PING, and every other command with `reply`."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Answering]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write((b"+PONG\r\n" if b"PING" in data else self.reply) * data.count(b"*"))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@each
async def test_a_reply_that_cannot_be_parsed_is_a_store_error(reply: bytes) -> None:
    """In health checks and in script calls. Health and the circuit handle no other class of errors."""
    async with Answering(reply).serving() as redis:
        store = RedisStore(connect(f"redis://127.0.0.1:{redis.port}"))
        for probe in (store.ping, store.start):
            with pytest.raises(StoreError, match="Redis: "):
                await probe()
        await store.close()


@pytest.mark.parametrize("reply", [b"$-1\r\n", b"+OK\r\n", b":1\r\n", b"*1\r\n:1\r\n"])
async def test_only_a_reply_of_the_script_is_a_sign_of_life(reply: bytes) -> None:
    """A proxy could answer PONG itself."""
    async with Answering(reply).serving() as redis:
        store = RedisStore(connect(f"redis://127.0.0.1:{redis.port}"))
        with pytest.raises(StoreError, match="the script replied"):
            await store.ping()
        redis.reply = b"*0\r\n"
        store._found_out = asyncio.get_running_loop().time()
        await store.ping()
        await store.close()


@each
async def test_a_call_gets_the_error_and_the_next_one_a_new_connection(reply: bytes) -> None:
    """The rest of what the first connection received is discarded."""
    async with Answering(reply).serving() as redis:
        wire = Wire(connect(f"redis://127.0.0.1:{redis.port}"))
        with pytest.raises(Exception) as raised:  # the driver's own, whichever it is
            await asyncio.wait_for(wire.ask("GET", "a"), 10)
        assert not isinstance(raised.value, TimeoutError)
        redis.reply = b"+OK\r\n"
        assert b"OK" == await asyncio.wait_for(wire.ask("GET", "a"), 10)
        await wire.close()


async def test_reading_the_slots_continues_after_invalid_replies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task retries, and failures are counted."""
    monkeypatch.setattr(topology, "_AFTER_A_MISTAKE", 0.01)
    background = Background()
    async with Answering(b"").serving() as redis:
        nonsense = b"*1\r\n*1\r\n:0\r\n"
        sense = b"*1\r\n*3\r\n:0\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % (SLOTS - 1, redis.port)
        store = ClusterStore(
            lambda address: at_address(address, Link()), [("127.0.0.1", redis.port)], background=background
        )
        redis.reply = sense
        await store.start()
        (server,) = store._topology.primaries
        redis.reply = nonsense
        for probe in (store.ping, store.start):
            with pytest.raises(StoreError, match="Redis: "):
                await probe()
        server.away = True
        store._topology.repair()
        await until(lambda: dict(background.failures())["cluster_slots"] >= 2)
        redis.reply = sense
        await until(lambda: not server.away)
        await store.close()
