"""Peers that keep a port waiting: other clients are still answered, and these peers are disconnected in the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from ratelimit_service.http import connection, connections, turns
from ratelimit_service.http.messages import Request, Response, text
from ratelimit_service.http.server import HttpPort
from ratelimit_service.listening.certificates import Certificates
from testing.certificates import Authority
from testing.service import port_of

LONG = 10.0
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PARTS = {
    "nothing": b"",
    "half a line": b"GET /heal",
    "half a head": b"GET / HTTP/1.1\r\nhost: x\r\n",
    "half a body": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345",
}
each_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


class App:
    """Answers after reading the body; `/held` when it is released, `/long` with more than any buffer holds."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.held = 0

    async def __call__(self, request: Request) -> Response:
        async for _ in request.body:
            pass
        if request.path == "/held":
            self.held += 1
            await self.released.wait()
        return text("x" * 20_000_000 if request.path == "/long" else "hello")


class Peer:
    """A connected client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> bytes:
        """Return the first line of the answer; empty if the connection was closed."""
        async with asyncio.timeout(LONG):
            try:
                return await self._reader.readline()
            except ConnectionError:
                return b""

    async def closed(self) -> bool:
        """Wait until the connection is closed."""
        async with asyncio.timeout(LONG):
            with contextlib.suppress(ConnectionError):
                while await self._reader.read(1_000_000):
                    pass
        return True

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as this end knows."""
        return not self._reader.at_eof() and self._reader.exception() is None

    def close(self) -> None:
        self._writer.transport.abort()


class Port:
    """A port with room for three connections, and its clients."""

    def __init__(self, certificates: Certificates | None) -> None:
        self.app = App()
        self.port = HttpPort(self.app, "127.0.0.1", 0, certificates=certificates, most=3)
        self._peers: list[Peer] = []

    async def connect(self, *, tls: ssl.SSLContext | None = None, send: bytes = b"") -> Peer:
        name = "localhost" if tls is not None else None
        number = port_of(self.port.address)
        peer = Peer(*await asyncio.open_connection("127.0.0.1", number, ssl=tls, server_hostname=name))
        self._peers.append(peer)
        peer.send(send)
        return peer

    @property
    def count(self) -> int:
        """The number of connections, as the port counts them."""
        assert self.port._connections is not None
        return len(self.port._connections)

    async def stop(self) -> None:
        for peer in self._peers:
            peer.close()
        self.app.released.set()
        await self.port.stop(1)


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not what():
            await asyncio.sleep(0.001)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port(None)
    await port.port.start()
    yield port
    await port.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give peers only a twentieth of a second."""
    monkeypatch.setattr(connection, "PATIENCE", 0.05)
    monkeypatch.setattr(connections, "_CHECK_EVERY", 0.01)


BUSY = {
    "requests": REQUEST * 300,
    "chunks": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 2_000,
}


@pytest.mark.parametrize("sent", BUSY.values(), ids=BUSY)
async def test_a_connection_with_much_to_do_leaves_time_to_others(
    port: Port, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of gateways wait on the same event loop: each event of HTTP takes its own turn once the port had
    its time.
    """
    monkeypatch.setattr(turns, "SLICE", 0.0)
    events, turn = [0], connections.Connections.turn

    async def counted(self: connections.Connections) -> None:
        await turn(self)
        events[0] += 1

    monkeypatch.setattr(connections.Connections, "turn", counted)
    await port.connect(send=sent)
    await until(lambda: events[0])
    most, stopped = 0, 0
    while stopped < 20:
        before = events[0]
        await asyncio.sleep(0)
        most = max(most, events[0] - before)
        stopped = stopped + 1 if events[0] == before else 0
    assert events[0] >= 300
    assert most <= 2


async def test_connections_that_wait_for_time_come_one_after_another() -> None:
    """In their order, one in each turn of the event loop, and one that has gone holds up no other."""
    share, came = turns.Turns(), list[int]()

    async def use(number: int) -> None:
        await share.turn()
        came.append(number)
        share._ends = 0.0

    tasks = [asyncio.create_task(use(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    lengths = []
    for _ in range(12):
        await asyncio.sleep(0)
        lengths.append(len(came))
    assert [0, 1, 3, 4, 5] == came
    assert max(after - before for before, after in pairwise(lengths)) <= 1
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_head_of_too_many_lines_is_refused(port: Port) -> None:
    """Each line takes microseconds, and sixteen kilobytes have room for five thousand of them."""
    peer = await port.connect(send=REQUEST[:-2] + b"a:\r\n" * 200 + b"\r\n")
    assert b"HTTP/1.1 400 Bad Request\r\n" == await peer.answer()
    peer = await port.connect(send=REQUEST[:-2] + b"a:\r\n" * 100 + b"\r\n")
    assert b"HTTP/1.1 200 OK\r\n" == await peer.answer()


@each_part
async def test_one_more_takes_the_place_of_the_one_that_has_been_silent_for_the_longest_time(
    port: Port, part: bytes
) -> None:
    """A health check is answered, however many peers hold the port's connections."""
    silent = [await port.connect(send=part) for _ in range(3)]
    await until(lambda: port.count == 3)
    with capture_logs() as events:
        for number in range(3):
            prober = await port.connect(send=REQUEST)
            assert b"HTTP/1.1 200 OK\r\n" == await prober.answer()
            assert await silent[number].closed()
            assert [True] * (2 - number) == [peer.is_open for peer in silent[number + 1 :]]
    assert 3 == port.count
    assert [("warning", "HTTP", 3)] == [
        (event["log_level"], event["port"], event["connections"]) for event in events
    ]


async def test_bytes_now_and_then_do_not_make_a_connection_any_newer(port: Port) -> None:
    """Otherwise peers that send a byte each second would outlive every newcomer."""
    slow = [await port.connect() for _ in range(3)]
    for byte in range(8):
        for peer in slow:
            peer.send(REQUEST[byte : byte + 1])
        await asyncio.sleep(0.002)
    newest = await port.connect()
    await until(lambda: not slow[0].is_open)
    for peer in slow[1:]:
        peer.send(REQUEST[8:9])
    await asyncio.sleep(0.005)
    prober = await port.connect(send=REQUEST)
    assert b"HTTP/1.1 200 OK\r\n" == await prober.answer()
    assert (False, True) == (slow[1].is_open, newest.is_open)


async def test_requests_in_hand_are_not_closed_for_others(port: Port) -> None:
    """If all connections have a request in hand, the new connection is closed."""
    held = [await port.connect(send=REQUEST.replace(b"/ ", b"/held ")) for _ in range(3)]
    await until(lambda: port.app.held == 3)
    assert b"" == await (await port.connect(send=REQUEST)).answer()
    port.app.released.set()
    assert [b"HTTP/1.1 200 OK\r\n"] * 3 == [await peer.answer() for peer in held]


@each_part
async def test_a_request_that_does_not_come_is_waited_for_so_long(
    port: Port, impatient: None, part: bytes
) -> None:
    """After that time it is closed, even if there is room."""
    assert await (await port.connect(send=part)).closed()


async def test_an_answer_that_is_not_read_is_waited_for_so_long(port: Port, impatient: None) -> None:
    """Otherwise the handler, and the memory of its answer, would stay without a limit."""
    peer = await port.connect()
    peer._writer.transport.pause_reading()  # type: ignore[attr-defined]
    peer.send(REQUEST.replace(b"/ ", b"/long "))
    await until(lambda: port.count == 1)
    await until(lambda: port.count == 0)


async def test_an_answer_that_is_read_slowly_is_read_to_its_end(port: Port, impatient: None) -> None:
    """The peer must only make progress."""
    peer = await port.connect(send=REQUEST.replace(b"/ ", b"/long "))
    taken = 0
    while taken < 20_000_000:
        data = await peer._reader.read(500_000)
        assert data
        taken += len(data)
        await asyncio.sleep(0.002)


async def test_an_answer_that_takes_long_is_not_the_peers_fault(port: Port, impatient: None) -> None:
    """A connection that was answered is not closed soon either: it may send another request."""
    peer = await port.connect(send=REQUEST.replace(b"/ ", b"/held "))
    await asyncio.sleep(0.1)
    port.app.released.set()
    assert b"HTTP/1.1 200 OK\r\n" == await peer.answer()
    await asyncio.sleep(0.1)
    assert peer.is_open


async def test_a_pause_of_this_process_is_not_held_against_its_peers(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a suspension, the machine finds their data in its buffers, and reads it first."""
    peer = await port.connect()
    await until(lambda: port.count == 1)
    held = port.port._connections
    assert held is not None
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(held, "_checked_at", now)
    monkeypatch.setattr(connections, "_CHECK_EVERY", 60)
    (found,) = held._all
    found.waiting_since, held._checked_at = now - 60, now - 3_600
    held._check_all()
    await asyncio.sleep(0.01)
    assert peer.is_open
    held._check_all()
    assert await peer.closed()


async def test_handshakes_are_connections(tmp_path: Path) -> None:
    """A peer that connects and never begins TLS has a place, and loses it first."""
    authority = Authority()
    port = Port(Certificates("HTTP", *authority.server().write(tmp_path)))
    await port.port.start()
    try:
        silent = [await port.connect() for _ in range(3)]
        await until(lambda: port.count == 3)
        async with httpx.AsyncClient(verify=authority.context(), trust_env=False) as client:
            assert "hello\n" == (await client.get(f"https://localhost:{port_of(port.port.address)}/")).text
            assert await silent[0].closed()
            assert ([True, True], 3) == ([peer.is_open for peer in silent[1:]], port.count)
    finally:
        await port.stop()


async def test_a_handshake_that_does_not_come_is_waited_for_so_long(tmp_path: Path, impatient: None) -> None:
    """A handshake that fails leaves nothing behind either."""
    port = Port(Certificates("HTTP", *Authority().server().write(tmp_path)))
    await port.port.start()
    try:
        for send in (b"", b"GET / HTTP/1.1\r\n\r\n"):
            assert await (await port.connect(send=send)).closed()
        await until(lambda: port.count == 0)
    finally:
        await port.stop()


class Listening(socket.socket):
    """A listening socket whose `accept` fails a given number of times."""

    failures = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_where_descriptors_run_out_the_silent_ones_make_room(port: Port) -> None:
    """A health check is answered although the process cannot open files; the log has one line."""
    held = port.port._connections
    assert held is not None
    listening = Listening()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    held.listen(listening)
    silent = [await port.connect() for _ in range(2)]
    await until(lambda: port.count == 2)
    listening.failures = 4
    with capture_logs() as events:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(REQUEST)
        async with asyncio.timeout(LONG):
            assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
        writer.close()
    assert [True, True] == [await peer.closed() for peer in silent]
    expected = [("a connection cannot be accepted", "HTTP", os.strerror(errno.EMFILE), 2)]
    assert expected == [
        (event["event"], event["port"], event["error"], event["connections"]) for event in events
    ]


async def test_a_stop_closes_what_is_silent(port: Port) -> None:
    """It only waits for requests in hand."""
    silent = await port.connect()
    half = await port.connect(send=PARTS["half a head"])
    await until(lambda: port.count == 2)
    await port.port.stop(60)
    assert (True, True) == (await silent.closed(), await half.closed())


@pytest.mark.parametrize("closed_by", ["its peer", "the stop"])
async def test_a_connection_that_is_closed_while_it_waits_for_its_turn_ends(
    port: Port, monkeypatch: pytest.MonkeyPatch, closed_by: str
) -> None:
    """Its task does not wait for more data, so that a stop does not wait for it either."""
    free, waiting = asyncio.Event(), list[None]()

    async def turn(self: connections.Connections) -> None:
        waiting.append(None)
        await free.wait()

    monkeypatch.setattr(connections.Connections, "turn", turn)
    peer = await port.connect()
    await until(lambda: waiting)
    owner = port.port._connections
    assert owner is not None
    if closed_by == "its peer":
        peer.close()
        await until(lambda: not len(owner))
        free.set()
        await until(lambda: not owner._tasks)
    stopped = asyncio.create_task(port.port.stop(60))
    await until(lambda: not len(owner))
    free.set()
    async with asyncio.timeout(LONG):
        await stopped
