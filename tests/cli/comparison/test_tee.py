"""The tee passes bytes on unchanged, with the ends and failures of either side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from ratelimit_service.cli.comparison.frames import CONTINUATION, HEADERS, PREFACE, goaway
from ratelimit_service.cli.comparison.tee import Target, Tee, listen
from ratelimit_service.core.errors import StartError
from ratelimit_service.transports.grpc_method import PATH
from testing.certificates import Authority
from testing.waiting import until

from .answering import request
from .mirrored import replying, server
from .test_call_follower import frame

ASKED = request("a").SerializeToString()
SETTINGS = frame(4, 0, 0, b"")


class Copied:
    """The copies made by the tee."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int]] = []
        self.bytes = {"caller": bytearray(), "theirs": bytearray()}

    def opened(self, number: int) -> None:
        self.records.append(("opened", number))

    def from_caller(self, number: int, data: bytes) -> None:
        self.bytes["caller"] += data

    def from_theirs(self, number: int, data: bytes) -> None:
        self.bytes["theirs"] += data

    def closed(self, number: int) -> None:
        self.records.append(("closed", number))

    def missed(self, number: int) -> None:
        raise AssertionError


class Front:
    """A tee, its copies, and its notes."""

    def __init__(self, target: Target, **options: Any) -> None:
        self.copied, self.notes = Copied(), list[str]()
        self.tee = Tee(target, self.copied, self.notes.append, **{"timeout": 5, **options})

    @property
    def port(self) -> int:
        return int(self.tee.address.rpartition(":")[2])


@asynccontextmanager
async def teed(theirs: str, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[Front]:
    front = Front(Target.of(theirs), **options)
    await front.tee.start(listen("127.0.0.1:0"), tls)
    try:
        yield front
    finally:
        await front.tee.stop(0)


class Raw:
    """A service whose bytes a test chooses. `connection` is the next connection."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self.address = ""

    async def connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self._accepted.get()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._accepted.put((reader, writer))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Raw]:
        listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            listening.close()
            for writer in self._writers:
                writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_service_that_is_down_is_unavailable_and_back_without_a_restart() -> None:
    """Callers see the same as without the tee. Its failure is reported once, and its recovery too."""
    behaviour, _ = replying(9)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    async with teed(f"127.0.0.1:{port}") as front:
        for _ in range(3):
            async with aio.insecure_channel(front.tee.address) as caller:
                with pytest.raises(aio.AioRpcError) as failure:
                    await caller.unary_unary(PATH, None, None)(ASKED)
                assert grpc.StatusCode.UNAVAILABLE == failure.value.code()
        assert ["theirs cannot be reached: Connection refused"] == [
            note.partition(" (")[0] for note in map(plain, front.notes)
        ]
        async with server(behaviour, port) as _, aio.insecure_channel(front.tee.address) as caller:
            assert await caller.unary_unary(PATH, None, None)(ASKED, wait_for_ready=True)
    assert front.notes[1].startswith("theirs is reached again, after ")


def plain(note: str) -> str:
    """Return the note without the texts of asyncio and uvloop for a refused connection."""
    return note.replace("Connect call failed", "Connection refused")


async def test_a_port_that_is_taken_is_reported() -> None:
    """The message is that of the service."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=r"cannot listen for callers on .*: is the port taken"):
            listen(f"127.0.0.1:{port}")
    with pytest.raises(StartError, match=r"cannot listen for callers on unix:/nowhere/x: No such file"):
        listen("unix:/nowhere/x")


async def test_unix_sockets_lead_to_and_from_it(tmp_path: Path) -> None:
    """Both spellings of gRPC are accepted."""
    behaviour, _ = replying(9)
    theirs, here = tmp_path / "theirs", tmp_path / "here"
    async with server(behaviour, f"unix:{theirs}"):
        front = Front(Target.of(f"unix://{theirs}"))
        await front.tee.start(listen(f"unix:{here}"))
        assert f"unix:{here}" == front.tee.address
        async with aio.insecure_channel(f"unix:{here}") as caller:
            assert await caller.unary_unary(PATH, None, None)(ASKED)
        await front.tee.stop(5)


async def test_tls_ends_at_the_tee_on_both_sides(tmp_path: Path) -> None:
    """Copies are plaintext. An untrusted certificate is reported, and closes the connection."""
    behaviour, _ = replying(9)
    authority = Authority()
    certificate, key = authority.issue("localhost")
    port_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    port_context.load_cert_chain(*authority.issue("localhost").write(tmp_path))
    port_context.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context(cafile=authority.write(tmp_path))
    suspicious = ssl.create_default_context(cadata=Authority().pem.decode())
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    async with server(behaviour, credentials=credentials) as theirs:
        target = Target.of(theirs.replace("127.0.0.1", "localhost"))
        for context, works in ((trusting, True), (suspicious, False)):
            context.set_alpn_protocols(["h2"])
            front = Front(target._replace(tls=context))
            await front.tee.start(listen("127.0.0.1:0"), port_context)
            async with aio.secure_channel(f"localhost:{front.port}", authority.channel()) as caller:
                call = caller.unary_unary(PATH, None, None)(ASKED)
                if works:
                    assert await call
                    assert front.copied.bytes["caller"].startswith(PREFACE)
                else:
                    with pytest.raises(aio.AioRpcError, match="UNAVAILABLE"):
                        await call
                    assert "certificate" in front.notes[0]
            await front.tee.stop(5)


async def test_bytes_pass_in_both_directions_whatever_they_are() -> None:
    """Other protocols pass too. When one side ends its output, the other may still answer."""
    async with Raw().serving() as raw, teed(raw.address) as front:
        async with connected(front.port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            writer.write_eof()
            theirs_reader, theirs_writer = await raw.connection()
            assert b"GET / HTTP/1.1\r\n\r\n" == await theirs_reader.read()
            theirs_writer.write(b"HTTP/1.1 400")
            theirs_writer.close()
            assert b"HTTP/1.1 400" == await reader.read()
        await until(lambda: len(front.copied.records) >= 2)
    assert [("opened", 1), ("closed", 1)] == front.copied.records
    assert {"caller": b"GET / HTTP/1.1\r\n\r\n", "theirs": b"HTTP/1.1 400"} == front.copied.bytes


@pytest.mark.parametrize("which", ["caller", "theirs"])
async def test_a_broken_connection_breaks_its_other_side(which: str) -> None:
    """Other connections continue."""
    async with (
        Raw().serving() as raw,
        teed(raw.address) as front,
        connected(front.port) as caller,
        connected(front.port) as another,
    ):
        caller[1].write(b"a")
        theirs = await raw.connection()
        others = await raw.connection()
        if await theirs[0].read(1) == b"":
            theirs, others = others, theirs
        broken, beyond = (caller, theirs) if which == "caller" else (theirs, caller)
        broken[1].transport.abort()
        with contextlib.suppress(ConnectionResetError):
            assert b"" == await beyond[0].read()
        another[1].write(b"b")
        others[1].write(b"c")
        assert (b"b", b"c") == (await others[0].read(1), await another[0].read(1))


async def test_a_side_that_does_not_read_stops_the_other() -> None:
    """The tee buffers about a mebibyte for it, and nothing is lost when it reads again."""
    data = PREFACE + 2_000 * frame(0, 0, 1, bytes(16_384))
    async with Raw().serving() as raw, teed(raw.address) as front, connected(front.port) as (_, writer):
        theirs_reader, theirs_writer = await raw.connection()
        theirs_writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.transport.set_write_buffer_limits(0)
        writer.write(data)
        (pair,) = front.tee._pairs
        assert pair.caller._transport is not None
        reading = pair.caller._transport.is_reading
        await until(lambda: not reading())
        assert len(front.copied.bytes["caller"]) < len(data)
        theirs_writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert data == await theirs_reader.readexactly(len(data))


async def test_calls_in_flight_end_before_the_tee_does() -> None:
    """Callers first get a GOAWAY, and further connections are refused."""
    waiting, going_on = asyncio.Event(), asyncio.Event()
    answer, _ = replying(9)

    async def slow(data: bytes, context: Any) -> bytes:
        waiting.set()
        await going_on.wait()
        return await answer(data, context)  # type: ignore[no-any-return]

    async with (
        server(slow) as theirs,
        teed(theirs) as front,
        aio.insecure_channel(front.tee.address) as caller,
    ):
        waiting_call = asyncio.ensure_future(_result(caller.unary_unary(PATH, None, None)(ASKED)))
        await waiting.wait()
        stopping = asyncio.ensure_future(front.tee.stop(30))
        await asyncio.sleep(0)
        own = (("grpc.use_local_subchannel_pool", 1),)  # not the connection of the other channel
        async with aio.insecure_channel(front.tee.address, own) as late:
            with pytest.raises(aio.AioRpcError, match="UNAVAILABLE"):
                await late.unary_unary(PATH, None, None)(ASKED)
        assert not stopping.done()
        going_on.set()
        assert await waiting_call
        await stopping
    assert [("opened", 1), ("closed", 1)] == front.copied.records


async def _result(call: Any) -> bytes:
    return await call  # type: ignore[no-any-return]


async def test_the_notice_comes_between_two_frames() -> None:
    """It is never within a frame, or before the first frame of the service."""
    headers = frame(HEADERS, 4, 1, b"\x88")
    async with Raw().serving() as raw, teed(raw.address) as front, connected(front.port) as (reader, writer):
        writer.write(PREFACE + SETTINGS + frame(HEADERS, 4, 1, b"\x88"))
        theirs_reader, theirs_writer = await raw.connection()
        await theirs_reader.readexactly(len(PREFACE))
        theirs_writer.write(SETTINGS + headers[:5])
        await reader.readexactly(len(SETTINGS) + 5)
        stopping = asyncio.ensure_future(front.tee.stop(60))
        await asyncio.sleep(0)
        theirs_writer.write(headers[5:])
        expected = headers[5:] + goaway()
        assert expected == await reader.readexactly(len(expected))
        writer.close()
        theirs_writer.close()
        await stopping


@pytest.mark.parametrize(
    "first, rest",
    [
        (frame(HEADERS, 5, 1, b"\x88" * 20)[:9], b"\x88" * 20),
        (frame(HEADERS, 1, 1, b"\x88"), frame(CONTINUATION, 4, 1, b"\x88")),
    ],
)
async def test_an_answer_that_ends_in_parts_arrives_before_the_tee_ends(first: bytes, rest: bytes) -> None:
    """A caller with half an answer would repeat a call that was counted."""
    async with Raw().serving() as raw, teed(raw.address) as front, connected(front.port) as (reader, writer):
        writer.write(PREFACE + SETTINGS + frame(HEADERS, 5, 1, b"\x88"))
        theirs_reader, theirs_writer = await raw.connection()
        await theirs_reader.readexactly(len(PREFACE))
        theirs_writer.write(SETTINGS)
        await reader.readexactly(len(SETTINGS))
        stopping = asyncio.ensure_future(front.tee.stop(60))
        assert goaway() == await reader.readexactly(len(goaway()))
        (pair,) = front.tee._pairs
        await until(lambda: pair._leaving)
        theirs_writer.write(first)
        assert first == await reader.readexactly(len(first))
        theirs_writer.write(rest)
        assert rest == await reader.read()
        await stopping


async def test_a_call_that_does_not_end_is_closed_after_the_grace() -> None:
    """The caller gets no further data."""
    async with Raw().serving() as raw, teed(raw.address) as front, connected(front.port) as (reader, writer):
        writer.write(PREFACE + SETTINGS + frame(HEADERS, 4, 1, b"\x88"))
        theirs_reader, _ = await raw.connection()
        await theirs_reader.readexactly(len(PREFACE))
        await front.tee.stop(0)
        with contextlib.suppress(ConnectionResetError):
            assert b"" == await reader.read()


async def test_connections_without_calls_are_closed_at_the_end() -> None:
    """They get the GOAWAY first."""
    async with Raw().serving() as raw, teed(raw.address) as front, connected(front.port) as (reader, writer):
        writer.write(PREFACE + SETTINGS)
        _, theirs_writer = await raw.connection()
        theirs_writer.write(SETTINGS)
        await reader.readexactly(len(SETTINGS))
        await front.tee.stop(60)
        assert goaway() == await reader.read()


async def test_too_many_connections_are_turned_away() -> None:
    """This is reported, and the open ones continue."""
    async with Raw().serving() as raw, teed(raw.address, most_connections=1) as front:
        async with connected(front.port) as (reader, writer):
            writer.write(b"a")
            theirs_reader, theirs_writer = await raw.connection()
            for _ in range(2):
                async with connected(front.port) as (other, _):
                    with contextlib.suppress(ConnectionResetError):
                        assert b"" == await other.read()
            theirs_writer.write(b"b")
            assert (b"a", b"b") == (await theirs_reader.read(1), await reader.read(1))
        assert ["no more than 1 connections: further callers are turned away"] == front.notes
    assert [("opened", 1), ("closed", 1)] == front.copied.records
