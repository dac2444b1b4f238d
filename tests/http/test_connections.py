"""Peers that keep a port waiting: other clients are still answered, and these peers are disconnected
eventually.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from ratelimit_service.http import connection, connections
from ratelimit_service.listening.certificates import Certificates
from testing.certificates import Authority
from testing.service import port_of
from testing.waiting import until

from .peers import LONG, PARTS, REQUEST, Port

each_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give peers only a twentieth of a second."""
    monkeypatch.setattr(connection, "PATIENCE", 0.05)
    monkeypatch.setattr(connections, "_CHECK_EVERY", 0.01)


async def test_a_head_of_too_many_lines_is_refused(port: Port) -> None:
    """Each line takes microseconds, and sixteen kilobytes have room for five thousand of them."""
    peer = await port.connect(send=REQUEST[:-2] + b"a:\r\n" * 200 + b"\r\n")
    assert b"HTTP/1.1 400 Bad Request\r\n" == await peer.answer()
    peer = await port.connect(send=REQUEST[:-2] + b"a:\r\n" * 100 + b"\r\n")
    assert b"HTTP/1.1 200 OK\r\n" == await peer.answer()


@each_part
async def test_a_new_connection_replaces_the_one_that_was_silent_for_longest(port: Port, part: bytes) -> None:
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


async def test_single_bytes_do_not_extend_the_life_of_a_connection(port: Port) -> None:
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


async def test_the_address_with_the_most_connections_makes_room_first(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of another address stays, although it has been idle for longer."""
    networks = iter(["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3", "192.0.2.3"])
    monkeypatch.setattr(connections, "network_of", lambda _: next(networks))
    scraper = await port.connect(send=REQUEST)
    assert b"HTTP/1.1 200 OK\r\n" == await scraper.answer()
    flood = [await port.connect()]
    await until(lambda: port.count == 2)
    flood.append(await port.connect())
    await until(lambda: port.count == 3)
    prober = await port.connect(send=REQUEST)
    assert b"HTTP/1.1 200 OK\r\n" == await prober.answer()
    assert await flood[0].closed()
    assert (True, True) == (scraper.is_open, flood[1].is_open)


async def test_connections_with_requests_in_progress_are_not_replaced(port: Port) -> None:
    """If all connections have a request in progress, the new connection is closed."""
    held = [await port.connect(send=REQUEST.replace(b"/ ", b"/held ")) for _ in range(3)]
    await until(lambda: port.app.held == 3)
    assert b"" == await (await port.connect(send=REQUEST)).answer()
    port.app.released.set()
    assert [b"HTTP/1.1 200 OK\r\n"] * 3 == [await peer.answer() for peer in held]


@each_part
async def test_the_wait_for_a_request_is_bounded(port: Port, impatient: None, part: bytes) -> None:
    """Then the connection is closed, even if there is room."""
    assert await (await port.connect(send=part)).closed()


async def test_the_wait_for_a_peer_to_read_is_bounded(port: Port, impatient: None) -> None:
    """Otherwise the handler, and the memory of its answer, would stay without a limit."""
    peer = await port.connect()
    peer._writer.transport.pause_reading()  # type: ignore[attr-defined]
    peer.send(REQUEST.replace(b"/ ", b"/long "))
    await until(lambda: port.count == 1)
    await until(lambda: port.count == 0)


async def test_a_slow_reader_gets_the_whole_response(port: Port) -> None:
    """The peer must only make progress: here nine seconds pass each time that it has read something."""
    peer = await port.connect(send=REQUEST.replace(b"/ ", b"/long "))
    await until(lambda: port.count == 1)
    assert port.port._connections is not None
    (end,) = port.port._connections._all
    taken, seconds = 0, 0.0
    while taken < 20_000_000:
        data = await peer._reader.read(500_000)
        assert data
        taken += len(data)
        if end._transport is not None and end._transport.get_write_buffer_size() < end._unread:
            seconds += 0.9 * connection.PATIENCE
            end.check(asyncio.get_running_loop().time() + seconds)
    assert seconds > 2 * connection.PATIENCE


async def test_a_slow_handler_does_not_count_against_the_peer(port: Port, impatient: None) -> None:
    """A connection that was answered is not closed soon either: it may send another request."""
    peer = await port.connect(send=REQUEST.replace(b"/ ", b"/held "))
    await asyncio.sleep(0.1)
    port.app.released.set()
    assert b"HTTP/1.1 200 OK\r\n" == await peer.answer()
    await asyncio.sleep(0.1)
    assert peer.is_open


async def test_a_suspension_of_the_process_does_not_count_against_peers(
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


async def test_handshakes_count_as_connections(tmp_path: Path) -> None:
    """A peer that connects and never begins TLS has a place, and loses it first."""
    authority = Authority()
    port = Port(Certificates("HTTP", *authority.server().write(tmp_path)))
    await port.port.start()
    try:
        silent = [await port.connect() for _ in range(3)]
        await until(lambda: port.count == 3)
        async with httpx.AsyncClient(verify=authority.context(), trust_env=False, timeout=60) as client:
            assert "hello\n" == (await client.get(f"https://localhost:{port_of(port.port.address)}/")).text
            assert await silent[0].closed()
            assert ([True, True], 3) == ([peer.is_open for peer in silent[1:]], port.count)
    finally:
        await port.stop()


async def test_the_wait_for_a_handshake_is_bounded(tmp_path: Path, impatient: None) -> None:
    """A failed handshake leaves nothing behind."""
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


async def test_if_file_descriptors_run_out_silent_connections_make_room(port: Port) -> None:
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


async def test_a_stop_closes_silent_connections(port: Port) -> None:
    """It only waits for requests in progress."""
    silent = await port.connect()
    half = await port.connect(send=PARTS["half a head"])
    await until(lambda: port.count == 2)
    await port.port.stop(60)
    assert (True, True) == (await silent.closed(), await half.closed())
