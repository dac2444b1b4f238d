"""Real traffic with bits flipped, into `_http2.Session`: whatever comes, it neither crashes nor raises."""

from __future__ import annotations

import asyncio
import ctypes

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InternalError
from ratelimit_service.transports._http2 import Call, Session, Turn
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.native_connection import PATHS, WATCH

from . import h2
from .test_transport import CHARGE_40, CHECK

pytestmark = pytest.mark.fuzz

CALLS = 6
MAX_MESSAGE = 4_096
MOST_STREAMS = 1_000
MALLINFO = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


def by_hand() -> bytes:
    """What a client may send besides calls, each thing once."""
    return b"".join(
        (
            h2.MAGIC,
            h2.settings(initial_window_size=3),
            h2.call(1, CHARGE_40),
            h2.frame(h2.HEADERS, 0, 3, h2.block(h2.CALL)),
            h2.frame(h2.CONTINUATION, h2.END_HEADERS, 3, h2.block([(b"grpc-timeout", b"20m")])),
            h2.frame(h2.PRIORITY, 0, 3, bytes(5)),
            h2.frame(h2.DATA, 0, 3, h2.message(CHECK)[:7]),
            h2.frame(h2.PING, 0, 0, bytes(8)),
            h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK)[7:]),
            h2.frame(h2.WINDOW_UPDATE, 0, 1, (100).to_bytes(4, "big")),
            h2.call(5, b"", h2.replaced(path=PATHS[WATCH])),
            h2.frame(h2.RST_STREAM, 0, 5, (8).to_bytes(4, "big")),
            h2.call(7, CHECK, h2.replaced(content_type=b"text/plain")),
            h2.settings(initial_window_size=65_535),
            h2.frame(h2.GOAWAY, 0, 0, bytes(8)),
        )
    )


async def by_grpcio() -> bytes:
    """What grpcio sends for a few calls, with its tables of headers, pings and windows."""
    heard = bytearray()
    ended = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        server = Server()
        while data := await reader.read(65_536):
            heard.extend(data)
            server.take(data)
            writer.write(server.session.drain())
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(PATH, bytes, bytes)
        assert [b"answer"] * CALLS == await asyncio.gather(
            *[method(CHARGE_40, timeout=10) for _ in range(CALLS)]
        )
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        watch.cancel()
    server.close()
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    await ended.wait()
    return bytes(heard)


class Server:
    """What is behind a Session: answers all calls, one of three with an error where they are many."""

    def __init__(self) -> None:
        self.turn = Turn(lambda: None)
        self.session = Session(self.turn, self, PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)

    def take(self, data: bytes) -> int:
        """Feed the session and answer its calls; how many there were."""
        self.session.feed(data)
        calls, others = self.turn.take_calls(), self.turn.take_others()
        assert all(len(call.body) <= MAX_MESSAGE for call in calls + others)
        for call in calls:
            call.reply(InternalError("größer als 100 %"))
        assert calls == self.turn.take_answered()
        self.answer(calls)
        for call in others:
            self.session.send(call.number, b"")
            if call.method != WATCH:
                self.session.end(call.number)
            else:
                self.session.send(call.number, b"\x08\x01")
        assert self.session.streams <= MOST_STREAMS
        assert len(self.turn.take_owners()) <= 1
        self.turn.end()
        return len(calls) + len(others)

    def answer(self, calls: list[Call]) -> None:
        for call in calls[2::3] if len(calls) > CALLS else []:
            call.fail(13, "größer als 100 %")
        for call in calls:
            call.write(b"answer")


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    """What was sent over whole connections."""
    return [by_hand(), asyncio.run(by_grpcio())]


def test_what_was_recorded_is_made_of_calls(recorded: list[bytes]) -> None:
    """In one piece or in pieces, they are the same."""
    for traffic in recorded:
        calls, pieces = Server().take(traffic), Server()
        assert calls >= 3
        assert calls == sum(pieces.take(traffic[at : at + 7]) for at in range(0, len(traffic), 7))


@given(data=st.data())
def test_flipped_bits_harm_nobody(recorded: list[bytes], data: st.DataObject) -> None:
    """Nor do reads that end anywhere, parts that are missing, and parts that come twice."""
    traffic = bytearray(data.draw(st.sampled_from(recorded)))
    places = st.integers(0, len(traffic) - 1)
    for place in data.draw(st.lists(places, max_size=8)):
        traffic[place] ^= 1 << data.draw(st.integers(0, 7))
    start, end = sorted(data.draw(st.tuples(places, places)))
    what = data.draw(st.sampled_from(["kept", "missing", "twice", "many times"]))
    part = traffic[start:end]
    times = {"kept": 1, "missing": 0, "twice": 2, "many times": 50}[what]
    traffic[start:end] = part * times
    size = data.draw(st.sampled_from([1, 7, 100, 65_536]))
    server = Server()
    session = server.session
    for at in range(0, len(traffic), size):
        server.take(bytes(traffic[at : at + size]))
        written = session.drain()
        assert isinstance(written, bytes)
        session.relax()
        if session.closed:
            break
    session.announce_goaway()
    session.goaway()
    session.drain()


@given(chunks=st.lists(st.binary(max_size=200), max_size=20), greeted=st.booleans())
def test_any_bytes_at_all_harm_nobody(chunks: list[bytes], greeted: bool) -> None:
    """With or without what HTTP/2 begins with."""
    server = Server()
    if greeted:
        server.take(h2.MAGIC + h2.settings())
    for chunk in chunks:
        server.take(chunk)
        server.session.drain()
    assert server.session.streams <= MOST_STREAMS


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO]


def allocated() -> int:
    """Bytes that malloc has given out."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    used: int = libc.mallinfo2().uordblks
    return used


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts with glibc's mallinfo2")
def test_a_connection_leaves_nothing_behind(recorded: list[bytes]) -> None:
    """Wherever it ends: with calls that are not whole, not answered, or not read."""

    def connections() -> None:
        for traffic in recorded:
            for end in range(1, len(traffic), 5):
                server = Server()
                server.take(traffic[:end])
                if end % 2:
                    server.session.drain()
                server.session.abandon()

    connections()
    before = allocated()
    for _ in range(10):
        connections()
    assert allocated() - before < 10_000
