"""A connection that the store drives directly: each caller gets its reply, or an error if none arrives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ratelimit_service.stores.redis.client import Link, Login, Tls, at_address, at_socket, open_connection
from ratelimit_service.stores.redis.errors import NotSent
from ratelimit_service.stores.redis.wire import Command, Wire, pack
from testing.certificates import Authority
from testing.proxy import Proxy
from testing.redis_clients import connect
from testing.redis_servers import RedisServer, TlsFiles
from testing.waiting import until


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[Wire]:
    wire = Wire(connect(redis_url))
    yield wire
    await wire.close()


@pytest.fixture
async def proxy(redis_server: RedisServer, redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy before an empty Redis."""
    proxy = Proxy(redis_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A separate Redis, which the test stops."""
    with RedisServer() as server:
        yield server


async def asked(wire: Wire, *command: str | int) -> Any:
    """Return the reply, or the error in its place."""
    try:
        return await asyncio.wait_for(wire.ask(*command), 15)
    except RedisError as error:
        return error


@asynccontextmanager
async def serving(
    greet: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Run a server that calls `greet` for each connection, and yield its port."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await greet(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


async def test_replies_come_in_the_order_of_the_commands(wire: Wire, redis_server: RedisServer) -> None:
    """Commands that wait for the connection and those that are sent at once share one connection."""
    received: list[Any] = []
    for _ in range(50):
        wire.call(("INCR", "n"), received.append)
    await until(lambda: len(received) == 50)
    for _ in range(50):
        wire.call(("INCR", "n"), received.append)
    assert 101 == await wire.ask("INCR", "n")
    assert list(range(1, 101)) == received
    assert 1 == redis_server.cli("CLIENT", "LIST").count("cmd=incr")


async def test_an_error_reply_is_for_its_command(wire: Wire) -> None:
    """The error is of a class of redis-py, and the other commands have their replies."""
    await wire.ask("SET", "text", "abc")
    wrong, unknown, right = await asyncio.gather(
        asked(wire, "INCR", "text"), asked(wire, "EVALSHA", "0" * 40, 0), asked(wire, "GET", "text")
    )
    assert [ResponseError, NoScriptError, b"abc"] == [type(wrong), type(unknown), right]


async def test_a_command_that_cannot_be_packed_gets_an_error(wire: Wire) -> None:
    """No part of it is sent, and no other command gets a wrong reply."""
    received: list[Any] = []
    await wire.ask("PING")
    wire.call(("ECHO", "\ud800"), received.append)
    assert b"pong" == await wire.ask("ECHO", "pong")
    assert [UnicodeEncodeError] == [type(error) for error in received]


async def test_an_exception_in_a_callback_is_logged_and_later_replies_arrive(wire: Wire) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def fail(reply: object) -> None:
        raise ZeroDivisionError

    wire.call(("PING",), fail)
    assert b"next" == await wire.ask("ECHO", "next")
    assert [ZeroDivisionError] == [type(context["exception"]) for context in reported]


async def test_large_commands_and_replies(wire: Wire) -> None:
    """Several commands in sequence, each many times as large as a socket buffer."""
    texts = [bytes([ord("a") + number]) * 3_000_000 for number in range(4)]
    assert texts == await asyncio.gather(*[wire.ask("ECHO", text) for text in texts])


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_a_connection_that_is_cut_fails_only_waiting_calls(
    proxy: Proxy, redis_server: RedisServer, after: int
) -> None:
    """Each call fails once, nothing is sent again, and the next command uses a new connection."""
    wire = Wire(connect(f"redis://127.0.0.1:{proxy.port}"))
    assert 1 == await wire.ask("INCR", "n")
    proxy.cut_replies_after, proxy.cuts = after, 1
    received = await asyncio.gather(*[asked(wire, "INCR", "n") for _ in range(3)])
    assert any(isinstance(reply, RedisConnectionError) for reply in received)
    assert all(isinstance(reply, RedisConnectionError | int) for reply in received)
    assert await wire.ask("INCR", "n") in (2, 3, 4, 5)
    await wire.close()


async def test_a_connection_that_the_server_has_closed_is_replaced(
    wire: Wire, redis_server: RedisServer
) -> None:
    """After CLIENT KILL, or on a server that closes idle connections, the next command detects it."""
    number = await wire.ask("CLIENT", "ID")
    assert "1" == redis_server.cli("CLIENT", "KILL", "ID", str(number))
    await until(lambda: wire._connection is None)
    assert b"again" == await wire.ask("ECHO", "again")


async def test_an_unreachable_server_fails_all_waiting_calls() -> None:
    """The error has the reason, host and port. Once the server is back, calls succeed."""
    with RedisServer() as server:
        wire = Wire(connect(server.url))
        server.stop()
        for error in await asyncio.gather(asked(wire, "PING"), asked(wire, "PING")):
            assert isinstance(error, RedisConnectionError)
            assert str(server.port) in str(error)
        server.start()
        assert b"PONG" == await wire.ask("PING")
        await wire.close()


async def test_calls_to_a_server_that_hangs_time_out(server: RedisServer) -> None:
    """All waiting calls fail. The server may still execute their commands, but never twice."""
    wire = Wire(connect(server.url, timeout=10), patience=0.05)
    assert b"PONG" == await patiently(wire, "PING")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        first, second = await asyncio.gather(asked(wire, "INCR", "n"), asked(wire, "INCR", "n"))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert [RedisTimeoutError] * 2 == [type(first), type(second)]
    assert "no answer within 50 ms" == str(first)
    assert await patiently(wire, "INCR", "n") in (1, 2, 3)
    await wire.close()


async def patiently(wire: Wire, *command: str) -> Any:
    """Return the reply of a server that is about to return."""
    async with asyncio.timeout(60):
        while isinstance(reply := await asked(wire, *command), Exception):
            pass
    return reply


async def test_calls_that_wait_for_a_connection_time_out_too() -> None:
    """The server accepts connections and sends nothing: no call waits longer than the attempt to connect."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pass

    async with serving(say_nothing) as port:
        link = Link(Login(password="hush"), timeout=1.0)
        wire = Wire(at_address(("127.0.0.1", port), link), patience=0.02)
        error = await asked(wire, "PING")
        assert isinstance(error, NotSent)
        assert (RedisTimeoutError, "no connection within 20 ms") == (type(error.cause), str(error))
        assert wire._connecting is not None
        await wire.close()


async def test_a_server_may_close_the_connection_right_after_the_greeting() -> None:
    """Before or after the connection is taken over; in both cases, its calls fail."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"hush\r\n")
        writer.write(b"+OK\r\n")
        writer.close()

    async with serving(greet) as port:
        wire = Wire(connect(f"redis://:hush@127.0.0.1:{port}"))
        for _ in range(3):
            assert isinstance(await asked(wire, "PING"), RedisConnectionError)
        await wire.close()


async def test_a_connection_that_ended_while_it_was_made_is_not_taken_over(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would report its end again."""
    client = connect(redis_url)
    made = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    await made.connect()
    assert made._reader is not None and made._writer is not None
    stream = made._writer
    made._reader.feed_eof()
    monkeypatch.setattr(client.connection_pool, "make_connection", lambda: made)
    with pytest.raises(RedisConnectionError, match="closed by server"):
        await open_connection(client)
    assert stream.transport.is_closing()
    await client.aclose()


async def test_dropping_a_connection_spares_one_to_the_right_server(
    wire: Wire, redis_server: RedisServer
) -> None:
    """Waiting calls get the reason, and the next command uses a new connection."""
    await wire.ask("PING")
    before = wire._connection
    wire.drop("moved", unless_at=("127.0.0.1", redis_server.port))
    assert before is wire._connection
    received: list[Any] = []
    wire.call(("PING",), received.append)
    wire.drop("moved", unless_at=("127.0.0.1", 1))
    assert ["moved"] == [str(error) for error in received]
    assert b"PONG" == await wire.ask("PING")
    assert before is not wire._connection


async def test_closing_waits_for_the_replies(redis_url: str, redis_server: RedisServer) -> None:
    """It waits for commands that wait for the connection and for those in flight; then no connection is
    left.
    """
    for connected in (False, True):
        wire = Wire(connect(redis_url))
        if connected:
            await wire.ask("PING")
        received: list[Any] = []
        for _ in range(3):
            wire.call(("ECHO", "x"), received.append)
        await wire.close()
        assert [b"x"] * 3 == received
        assert wire._connection is None


@pytest.mark.parametrize("place", ["address", "socket", "address with TLS"])
def test_connections_work_on_uvloop(place: str, tmp_path: Path) -> None:
    """The service runs on it. It has its own transports, and each kind of connection is taken over."""
    authority = Authority()
    certificate, key = authority.issue("127.0.0.1").write(tmp_path)
    tls = TlsFiles(certificate, key) if "TLS" in place else None

    async def count(server: RedisServer) -> list[Any]:
        link = Link(tls=Tls(authority.write(tmp_path)) if tls else None)
        socket = place == "socket"
        client = (
            at_socket(str(server.unixsocket), link)
            if socket
            else at_address(("127.0.0.1", server.port), link)
        )
        wire = Wire(client)
        replies = [await wire.ask("INCR", "n")]
        replies += await asyncio.gather(*[wire.ask("INCR", "n") for _ in range(3)])
        server.cli("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: wire._connection is None)
        replies.append(await wire.ask("INCR", "n"))
        await wire.close()
        return replies

    with RedisServer(tls=tls) as server:
        assert [1, 2, 3, 4, 5] == uvloop.run(count(server))


async def test_an_idle_connection_is_replaced_before_it_is_used(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network may have dropped it silently: a command after a pause uses a new connection."""
    wire = Wire(connect(f"redis://127.0.0.1:{proxy.port}", timeout=15))
    assert 1 == await wire.ask("INCR", "n")
    monkeypatch.setattr("ratelimit_service.stores.redis.wire._TRUSTED", 0.0)
    proxy.forget_all()
    replies = await asyncio.gather(*[asked(wire, "INCR", "n") for _ in range(3)])
    assert [2, 3, 4] == replies
    monkeypatch.undo()
    connection = wire._connection
    assert 5 == await wire.ask("INCR", "n")
    assert connection is wire._connection
    await wire.close()


@pytest.mark.parametrize("timeout", [1.0, 0.25])
async def test_the_kernel_keeps_every_connection_alive(redis_url: str, timeout: float) -> None:
    """Those of the driver as well. A lost connection is closed as soon as a reply would be overdue."""
    client = at_address(address_in(redis_url), Link(timeout=timeout))
    opened = await open_connection(client)
    peer = opened.stream.get_extra_info("socket")
    values = [
        peer.getsockopt(socket.SOL_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
    ]
    assert (1, [2, 1, timeout * 1000]) == (peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), values)
    opened.stream.close()
    await client.aclose()


def address_in(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return host, int(port)


@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.text("ab:{}|", min_size=250, max_size=260),
            st.integers(-(2**64), 2**64),
            st.binary(),
        ),
        min_size=1,
    ).map(tuple)
)
def test_a_command_has_the_bytes_that_hiredis_writes(command: Command) -> None:
    """Keys may be long or have other characters than those of ASCII, in CACHE_KEY_PREFIX."""
    assert hiredis.pack_command(command) == pack(command)  # type: ignore[arg-type]
