"""Real traffic with bits flipped, into `_http2.Session`: whatever comes, it neither crashes nor raises."""

from __future__ import annotations

import asyncio
import ctypes

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.transports._http2 import Session
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
        session = Session(PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)
        while data := await reader.read(65_536):
            heard.extend(data)
            answer(session, data)
            writer.write(session.drain())
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


def answer(session: Session, data: bytes) -> int:
    """Feed a session, answer all its calls, one of three with an error; how many there were."""
    numbers, bodies, timeouts, others = session.feed(data)
    assert len(numbers) == len(bodies) == len(timeouts)
    assert all(len(body) <= MAX_MESSAGE for body in bodies)
    for number in numbers[2::3] if len(numbers) > CALLS else []:
        session.reply_error(number, 13, "größer als 100 %")
    session.reply_many(numbers, [b"answer"] * len(numbers))
    for number, method, _ in others:
        session.send(number, b"")
        if method != WATCH:
            session.end(number)
        else:
            session.send(number, b"\x08\x01")
    assert session.streams <= MOST_STREAMS
    return len(numbers) + len(others)


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    """What was sent over whole connections."""
    return [by_hand(), asyncio.run(by_grpcio())]


def test_what_was_recorded_is_made_of_calls(recorded: list[bytes]) -> None:
    """In one piece or in pieces, they are the same."""
    for traffic in recorded:
        whole = Session(PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)
        pieces = Session(PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)
        calls = answer(whole, traffic)
        assert calls >= 3
        assert calls == sum(answer(pieces, traffic[at : at + 7]) for at in range(0, len(traffic), 7))


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
    session = Session(PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)
    for at in range(0, len(traffic), size):
        answer(session, bytes(traffic[at : at + size]))
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
    session = Session(PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)
    if greeted:
        session.feed(h2.MAGIC + h2.settings())
    for chunk in chunks:
        answer(session, chunk)
        session.drain()
    assert session.streams <= MOST_STREAMS


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
                session = Session(PATHS, MAX_MESSAGE, 4 * MAX_MESSAGE)
                answer(session, traffic[:end])
                if end % 2:
                    session.drain()

    connections()
    before = allocated()
    for _ in range(10):
        connections()
    assert allocated() - before < 10_000
