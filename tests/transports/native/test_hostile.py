"""What one peer can make the native transport do and keep, and what it cannot. Over raw sockets."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import pytest
from grpc_health.v1 import health_pb2

from ratelimit_service.core.errors import StartError
from ratelimit_service.listening.certificates import Certificates
from ratelimit_service.transports.native import health, peers
from ratelimit_service.transports.native import server as native
from ratelimit_service.transports.native._http2 import Budget, Session, Turn, library_version
from ratelimit_service.transports.native.connection import COST, Connection
from ratelimit_service.transports.native.methods import PATHS, WATCH
from ratelimit_service.transports.native.tls import Tls
from ratelimit_service.transports.options import GrpcOptions
from testing.certificates import Authority

from .. import h2
from ..h2 import Peer
from ..test_transport import CHARGE_40, CHECK, message, until
from .limiter import Begin, Limiter
from .test_calls import batches_of
from .test_limits import goaway_error, look_at_them, opening

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8
MIB = 1_048_576

# A frame whose size is wrong, after the abuse budget of the peer is spent in the same read.

SPENT = opening(1) + h2.frame(h2.DATA, 0, 1) * 1_000
WRONG_SIZES = {
    "ping": h2.frame(h2.PING, 0, 0, b"1"),
    "settings": h2.frame(h2.SETTINGS, 0, 0, b"1"),
    "acknowledged settings": h2.frame(h2.SETTINGS, h2.ACK, 0, bytes(6)),
    "reset": h2.frame(h2.RST_STREAM, 0, 1, b"1"),
    "priority": h2.frame(h2.PRIORITY, 0, 1, b"1"),
    "window update": h2.frame(h2.WINDOW_UPDATE, 0, 1, b"1"),
    "goaway": h2.frame(h2.GOAWAY, 0, 0, b"1"),
    "headers with a priority": h2.frame(h2.HEADERS, h2.END_HEADERS | 0x20, 3, b"1"),
    "padded headers with a priority": h2.frame(h2.HEADERS, h2.END_HEADERS | 0x28, 3, b"\0" * 5),
    "padded data": h2.frame(h2.DATA, 0x8, 1),
    "a large frame": h2.frame(h2.DATA, 0, 1, bytes(16_385)),
}


@pytest.mark.parametrize("wrong", WRONG_SIZES.values(), ids=WRONG_SIZES)
async def test_a_malformed_frame_after_the_end_of_a_session_ends_no_process(
    limiter: Limiter, wrong: bytes
) -> None:
    """nghttp2 asserts that a session that was ended within its callbacks reads nothing more: none is."""
    peer = await limiter.connect()
    peer.send(SPENT + wrong + h2.call(3, CHARGE_40))
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())
    assert await limiter.still_serves()
    assert 0 == await limiter.counted()


@pytest.mark.parametrize("wrong", WRONG_SIZES.values(), ids=WRONG_SIZES)
async def test_a_malformed_frame_is_answered_with_frame_size_error(limiter: Limiter, wrong: bytes) -> None:
    """Also where its head comes in two reads; the calls before it are answered."""
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40) + wrong[:5])
    assert OK == (await peer.answer(1)).status
    peer.send(wrong[5:])
    assert h2.FRAME_SIZE_ERROR == goaway_error(await peer.rest())


async def test_a_client_that_pushes_is_sent_away(limiter: Limiter) -> None:
    """Only servers may."""
    peer = await limiter.connect()
    peer.send(h2.frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, bytes(4)))
    assert h2.PROTOCOL_ERROR == goaway_error(await peer.rest())


# Headers that are much larger decoded than on the wire.

LARGE = h2.remembered([(b"x-large", b"a" * 3_900)])
"""In HPACK's table as its newest entry, of about 4 KiB."""
NEWEST = b"\xbe"
"""One byte that stands for it."""


def calls(first: int, number: int, extra: bytes, body: bytes = CHECK) -> bytes:
    """Calls with more headers in HPACK."""
    head = h2.block(h2.CALL) + extra
    return b"".join(
        h2.frame(h2.HEADERS, h2.END_HEADERS, stream, head)
        + h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(body))
        for stream in range(first, first + 2 * number, 2)
    )


async def test_headers_that_grow_by_decoding_are_paid_for(limiter: Limiter) -> None:
    """Three references in a block are 12 KiB that nobody sent: 7 units of 1,000 for each, less one for a whole call."""
    peer = await limiter.connect()
    peer.send(calls(1, 1, LARGE) + calls(3, 900, NEWEST * 3))
    frames = await peer.rest()
    assert h2.ENHANCE_YOUR_CALM == goaway_error(frames)
    answered = {frame.stream for frame in frames if frame.kind == h2.HEADERS}
    assert len(answered) < 200
    assert await limiter.still_serves()


async def test_an_honest_peer_may_name_its_whole_table_in_every_call(limiter: Limiter) -> None:
    """A token of 4 KiB in every call is what HPACK is for."""
    peer = await limiter.connect()
    peer.send(h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")) + calls(1, 1, LARGE))
    await peer.answer(1)
    for first in range(3, 4_003, 400):
        peer.send(calls(first, 200, NEWEST))
        answers = await peer.answers(set(range(first, first + 400, 2)))
        assert {OK} == {answer.status for answer in answers.values()}


async def test_a_block_of_headers_is_not_decoded_beyond_its_bound(limiter: Limiter) -> None:
    """147 kB that stand for 570 MB: the block ends the stream at 64 KiB, and the connection soon."""
    peer = await limiter.connect()
    bomb = h2.block(h2.CALL) + LARGE + NEWEST * 140_000
    parts = [bomb[at : at + 16_384] for at in range(0, len(bomb), 16_384)]
    block = h2.frame(h2.HEADERS, 0, 1, parts[0])
    for part in parts[1:-1]:
        block += h2.frame(h2.CONTINUATION, 0, 1, part)
    peer.send(block + h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, parts[-1]))
    peer.send(calls(3, 1, b""))
    answers = await peer.rest_or_answer(3)
    assert 1 not in {frame.stream for frame in answers if frame.kind == h2.HEADERS}
    assert await limiter.still_serves()


async def test_a_bomb_before_an_invalid_header_is_paid_for(limiter: Limiter) -> None:
    """nghttp2 resets the stream for the last header, so that nothing is called at the end of the block."""
    peer = await limiter.connect()
    peer.send(calls(1, 1, LARGE) + calls(3, 900, NEWEST * 12 + h2.block([(b"BAD", b"")])))
    frames = await peer.rest()
    # nghttp2 1.68 ends the connection for the first such header.
    assert goaway_error(frames) in {h2.ENHANCE_YOUR_CALM, h2.PROTOCOL_ERROR}
    assert len({frame.stream for frame in frames if frame.kind == h2.RST_STREAM}) < 100


async def test_trailers_count_with_the_headers(limiter: Limiter) -> None:
    """Each is within the limit; together they are not."""
    peer = await limiter.connect()
    many = h2.block([(b"x", b"y" * 9_000)])
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(h2.CALL) + many))
    peer.send(h2.frame(h2.DATA, 0, 1, h2.message(CHARGE_40)))
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, many))
    answer = await peer.answer(1)
    assert (RESOURCE_EXHAUSTED, "the headers are larger than 16 KiB") == (
        answer.status,
        answer.headers["grpc-message"],
    )
    assert 0 == await limiter.counted()


async def test_trailers_that_do_not_end_a_request_are_paid_for(limiter: Limiter) -> None:
    """They are as cheap to send as they are against the rules."""
    peer = await limiter.connect()
    peer.send(opening(1) + h2.frame(h2.HEADERS, h2.END_HEADERS, 1) * 1_001)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())
    assert await limiter.still_serves()


async def test_a_call_may_end_with_trailers(limiter: Limiter) -> None:
    """HTTP/2 allows it."""
    peer = await limiter.connect()
    peer.send(opening(1) + h2.frame(h2.DATA, 0, 1, h2.message(CHARGE_40)))
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, h2.block([(b"x", b"y")])))
    assert OK == (await peer.answer(1)).status
    assert 40 == await limiter.counted()


MANY_SETTINGS = h2.frame(
    h2.SETTINGS, 0, 0, b"".join(b"\0\4" + (60_000 + n).to_bytes(4, "big") for n in range(32))
)
LOOKS_AT_ALL_STREAMS = {
    "goaway": h2.frame(h2.GOAWAY, 0, 0, bytes(8)),
    "settings": MANY_SETTINGS,
}


@pytest.mark.parametrize("frame", LOOKS_AT_ALL_STREAMS.values(), ids=LOOKS_AT_ALL_STREAMS)
async def test_a_frame_that_touches_every_stream_costs_more(limiter: Limiter, frame: bytes) -> None:
    """A hundred of them with a thousand streams are a flood."""
    peer = await limiter.connect()
    peer.send(b"".join(opening(stream) for stream in range(1, 2_001, 2)))
    await until(lambda: sum(end.session.streams for end in limiter.server.peers if end.session) == 1_000)
    peer.send(frame * 100)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())


# One peer, and the others.


async def test_a_peer_that_sends_much_at_once_is_served_a_share_in_each_turn(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another peer's call that comes later is in the first batch, and nothing is lost of the others."""
    greedy, modest = await limiter.connections(2)
    sizes = batches_of(limiter, monkeypatch)
    sent = b"".join(h2.call(stream, message("greedy", 1)) for stream in range(1, 1_001, 2))
    greedy.data_received(sent)
    modest.data_received(h2.call(1, message("modest", 1)))
    await until(lambda: sum(sizes) == 501)
    assert (True, 1) == (sizes[0] <= 129, await limiter.counted("modest"))
    assert max(sizes) <= 129
    assert 500 == await limiter.counted("greedy")


async def test_the_busier_the_connections_the_smaller_their_shares(limiter: Limiter) -> None:
    """A turn takes about as long, however many peers send as fast as they can."""
    shares = []
    for active in (1, 10, 100, 10_000):
        limiter.server._calls._set_shares(0, active, 0.0)
        shares.append(limiter.server.turn.share)
    assert all(share >= larger for share, larger in pairwise(shares))
    assert (128, 1) == (shares[0], shares[-1])


async def test_all_connections_together_have_their_share_of_a_turn(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that send little are served at once, while what is left of the others is taken a few at a time."""
    *greedy, modest = await limiter.connections(6)
    sizes = batches_of(limiter, monkeypatch)
    calls, turn = limiter.server._calls, limiter.server.turn
    monkeypatch.setattr(calls, "_set_shares", lambda *_: None)
    turn.total = 20
    for connection in greedy:
        connection.data_received(
            b"".join(h2.call(stream, message("greedy", 1)) for stream in range(1, 201, 2))
        )
    await until(lambda: bool(sizes))
    modest.data_received(h2.call(1, message("modest", 1)))
    done = len(sizes)
    await until(lambda: len(sizes) > done)
    assert 1 == await limiter.counted("modest")
    await until(lambda: sum(sizes) == 501)
    assert max(sizes) <= 20 + 5


@pytest.mark.parametrize("how", ["hangs up", "is cut off"])
async def test_what_was_left_for_the_next_turn_is_charged_when_the_peer_has_gone(
    limiter: Limiter, how: str
) -> None:
    """It has arrived, and that it did not fit into a turn is not the caller's doing."""
    (connection,) = await limiter.connections(1)
    connection.data_received(b"".join(h2.call(stream, CHARGE_40) for stream in range(1, 401, 2)))
    if how == "hangs up":
        connection._transport.abort()
    else:
        connection.abort()
    await until(lambda: sum(calls for _, calls in limiter.answered) == 200)
    assert 200 * 40 == await limiter.counted()


# Bytes.


async def test_unfinished_calls_of_many_connections_are_bounded_together(begin: Begin) -> None:
    """The connections that keep most are closed, and those that keep nothing are served all along."""
    limiter = await begin(GrpcOptions(max_bytes=8 * MIB))
    honest = await limiter.connect()
    budget = limiter.server.turn.budget
    most = 0
    hostile = [await limiter.connect() for _ in range(30)]
    for number in range(1, 81, 2):
        for peer in hostile:
            peer.send(opening(number) + h2.frame(h2.DATA, 0, number, b"\0\0\0\xff\xff" + bytes(5_000)))
        honest.send(h2.call(number, CHECK))
        assert OK == (await honest.answer(number)).status
        most = max(most, budget.waiting)
    assert 1 * MIB < most <= budget.most_waiting
    assert limiter.server.peers.closed > 0
    assert await limiter.still_serves()


async def test_a_connection_that_keeps_less_than_its_share_is_not_closed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where those that kept most have gone by themselves since they were chosen."""
    monkeypatch.setattr(peers, "_CLOSED_AT_ONCE", 1)
    limiter = await begin(GrpcOptions(max_bytes=8 * MIB))
    everyone, budget = limiter.server.peers, limiter.server.turn.budget
    honest, late, *hostile = await limiter.connections(5)
    for connection, size in ((honest, 2_000), *((each, 800_000) for each in hostile)):
        assert connection.session is not None
        connection.session.keep(size)
    assert budget.pressed
    everyone.relieve()
    for connection in hostile:
        connection.abort()
    assert late.session is not None
    late.session.keep(1_800_000)
    for _ in range(20):
        everyone._relieve_more()
    assert (False, True) == (honest._gone, late._gone)


async def test_streams_without_a_body_count_as_well(begin: Begin) -> None:
    """A thousand of them take half a megabyte."""
    limiter = await begin(GrpcOptions(max_bytes=4 * MIB))
    for _ in range(5):
        peer = await limiter.connect()
        peer.send(b"".join(opening(stream) for stream in range(1, 2_001, 2)))
    await until(lambda: limiter.server.peers.closed > 0 and not limiter.server.turn.budget.pressed)
    assert await limiter.still_serves()


async def test_a_connection_keeps_no_more_than_its_own_bytes(begin: Begin) -> None:
    """What is more is refused; a single message of the largest size fits in any case."""
    limiter = await begin(GrpcOptions(max_message_bytes=600_000, max_connection_bytes=1))
    peer = await limiter.connect()
    half = b"\0" + (600_000).to_bytes(4, "big") + bytes(60_000)
    for stream in range(1, 61, 2):
        peer.send(opening(stream) + h2.frame(h2.DATA, 0, stream, half[:16_000]))
        for at in range(16_000, 60_000, 16_000):
            peer.send(h2.frame(h2.DATA, 0, stream, half[at : at + 16_000]))
        await asyncio.sleep(0.001)
    refused = await peer.until(h2.HEADERS)
    assert refused.flags & h2.END_STREAM
    assert limiter.server.turn.budget.waiting <= 600_000 + 262_144 + 65_536
    assert await limiter.still_serves()


async def test_calls_in_hand_are_bounded_by_their_bytes(begin: Begin) -> None:
    """While the store is slow; what is more is refused, and is not counted."""
    limiter = await begin(GrpcOptions(max_bytes=2 * MIB), hold=True)
    large = message("x" * 20_000, 1)
    peer = await limiter.connect()
    peer.send(b"".join(long_call(stream, large) for stream in range(1, 11, 2)))
    await until(lambda: bool(limiter.held))
    answer = await peer.answer(9)
    assert RESOURCE_EXHAUSTED == answer.status
    budget = limiter.server.turn.budget
    assert 0 < budget.in_hand <= budget.most_in_hand
    for go_on in limiter.held:
        go_on()
    assert OK == (await peer.answer(1)).status
    await until(lambda: not budget.in_hand)


def long_call(stream: int, body: bytes) -> bytes:
    """A call in several frames of data."""
    framed = h2.message(body)
    parts = [framed[at : at + 16_000] for at in range(0, len(framed), 16_000)]
    data = [h2.frame(h2.DATA, 0, stream, part) for part in parts[:-1]]
    return opening(stream) + b"".join(data) + h2.frame(h2.DATA, h2.END_STREAM, stream, parts[-1])


async def test_a_connection_costs_what_it_takes(begin: Begin) -> None:
    """Half of all bytes are for connections; one more is closed at once, and one that goes makes room."""
    limiter = await begin(GrpcOptions(max_bytes=4 * COST))
    first = await limiter.connect()
    await limiter.connections(1)
    third = await limiter.connect(b"")
    assert [] == await third.rest()
    first.close()
    await until(lambda: len(limiter.server.peers) == 1)
    assert await limiter.still_serves()


async def test_much_memory_that_was_freed_is_returned_to_the_system(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """malloc would keep it, and every kind of flood would leave its own."""
    trims: list[int] = []
    monkeypatch.setattr(peers, "malloc_trim", trims.append)
    limiter = await begin()
    budget = limiter.server.turn.budget
    limiter.server.peers._trim(0.0)
    assert budget.connect(20 * MIB)
    limiter.server.peers._trim(1.0)
    assert [] == trims
    budget.disconnect(20 * MIB)
    limiter.server.peers._trim(2.0)
    limiter.server.peers._trim(3.0)
    assert [0] == trims


async def test_nothing_stays_counted_when_all_have_gone(begin: Begin) -> None:
    """Wherever in a call a connection ends."""
    limiter = await begin(hold=True)
    whole = h2.MAGIC + h2.settings() + b"".join(h2.call(stream, CHECK) for stream in (1, 3, 5))
    for end in range(0, len(whole), 11):
        peer = await limiter.connect(whole[:end])
        await asyncio.sleep(0)
        peer.close()
    await until(lambda: not limiter.server.peers)
    for answer in limiter.held:
        answer()
    limiter.held.clear()
    await until(lambda: not limiter.server.in_hand)
    budget = limiter.server.turn.budget
    assert (0, 0, 0) == (budget.connections, budget.waiting, budget.in_hand)


def test_calls_that_are_garbage_together_with_their_server_are_freed_in_any_order() -> None:
    """A Call gives its bytes back when it is freed, and the collector may have cleared the Turn by then."""
    before = sys.getrefcount(type(None))
    for _ in range(20):
        cycle: list[object] = []
        turn = Turn(partial(list, cycle), Budget(MIB))
        session = Session(turn, cycle, PATHS, 1_000, MIB)
        session.feed(h2.MAGIC + h2.settings() + h2.call(1, b"x" * 200))
        cycle += [turn, session, *turn.take_calls()]
        assert 3 == len(cycle)
        del turn, session, cycle
        gc.collect()
    assert abs(sys.getrefcount(type(None)) - before) < 10


# Watches.


def watch(stream: int, name: str) -> bytes:
    body = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return h2.call(stream, body, h2.replaced(path=PATHS[WATCH]))


async def test_the_names_of_unknown_services_are_not_kept(limiter: Limiter) -> None:
    """They stay unknown; so there is nothing to remember."""
    peer = await limiter.connect()
    names = [str(n).zfill(15_000) for n in range(3)]
    for stream, name in enumerate([*names, "ratelimit"]):
        peer.send(watch(2 * stream + 1, name))
        answer = await peer.until(h2.DATA, 2 * stream + 1)
        status = health_pb2.HealthCheckResponse.FromString(answer.payload[5:]).status
        assert status == (1 if name == "ratelimit" else 3)
    (watches,) = limiter.server._health._watches.values()
    assert {"unknown", "ratelimit"} == set(watches.values())


async def test_a_connection_has_a_hundred_watches_and_not_more(limiter: Limiter) -> None:
    """Each is a stream that stays for as long as the connection."""
    peer = await limiter.connect()
    peer.send(b"".join(watch(stream, "") for stream in range(1, 203, 2)))
    assert RESOURCE_EXHAUSTED == (await peer.answer(201)).status
    peer.send(h2.frame(h2.RST_STREAM, 0, 1, bytes(4)) + watch(203, ""))
    await peer.until(h2.DATA, 203)


async def test_many_watches_are_notified_in_steps(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several turns of the event loop, because each takes time; those of other services hear nothing."""
    monkeypatch.setattr(health, "_REPORTS_AT_ONCE", 2)
    peer = await limiter.connect()
    peer.send(b"".join(watch(stream, "ratelimit" if stream < 10 else "") for stream in range(1, 13, 2)))
    for stream in range(1, 13, 2):
        await peer.until(h2.DATA, stream)
    limiter.health.set("store", False)
    data_frames = [await peer.until(h2.DATA) for _ in range(5)]
    assert [1, 3, 5, 7, 9] == [frame.stream for frame in data_frames]
    assert {2} == {
        health_pb2.HealthCheckResponse.FromString(frame.payload[5:]).status for frame in data_frames
    }


# Time.


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_peer_that_takes_no_replies_is_cut_off_however_often_it_pings(limiter: Limiter) -> None:
    """What counts is what it takes, and an answer to a PING is none of the replies."""
    peer = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    peer.send(h2.call(1, CHECK))
    begun = now()
    for second in range(1, 10):
        await ping(peer)
        look_at_them(limiter, begun + second)
        assert 1 == len(limiter.server.peers)
    await ping(peer)
    look_at_them(limiter, begun + 12)
    await peer.rest()
    assert 1 == limiter.server.peers.closed


async def test_a_peer_that_takes_a_byte_a_second_is_cut_off(limiter: Limiter) -> None:
    """A reply is taken in full within ten seconds."""
    peer = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    peer.send(h2.call(1, CHECK))
    begun = now()
    for second in range(1, 10):
        peer.send(h2.frame(h2.WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")))
        assert 1 == len((await peer.until(h2.DATA, 1)).payload)
        look_at_them(limiter, begun + second)
    look_at_them(limiter, begun + 12)
    await peer.rest()
    assert not limiter.server.peers


async def test_a_watch_that_is_not_read_is_cut_off_as_well(limiter: Limiter) -> None:
    """And one that is read stays, however seldom the health changes."""
    deaf = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    deaf.send(watch(1, ""))
    reading = await limiter.connect()
    reading.send(watch(1, ""))
    await reading.until(h2.DATA, 1)
    await deaf.until(h2.HEADERS, 1)
    look_at_them(limiter, now() + 12)
    await deaf.rest()
    assert 1 == len(limiter.server.peers)


async def ping(peer: Peer, after: int = 0) -> None:
    """Wait until the server has read what was sent, and has sent so many headers."""
    peer.send(h2.frame(h2.PING, 0, 0, bytes(8)))
    kinds = [(await peer.frame()).kind]
    while h2.PING not in kinds or kinds.count(h2.HEADERS) < after:
        kinds.append((await peer.frame()).kind)
    assert after in (0, kinds.count(h2.HEADERS))


async def test_a_request_that_does_not_arrive_in_time_is_refused(limiter: Limiter) -> None:
    """However steadily its bytes drip; others of the connection go on."""
    peer = await limiter.connect()
    begun = now()
    peer.send(opening(1))
    for second, byte in enumerate(h2.message(CHECK)[:9]):
        peer.send(h2.frame(h2.DATA, 0, 1, bytes((byte,))))
        await ping(peer)
        look_at_them(limiter, begun + second)
    peer.send(opening(3))
    await ping(peer)
    look_at_them(limiter, begun + 12)
    assert DEADLINE_EXCEEDED == (await peer.answer(1)).status
    peer.send(h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK)))
    assert OK == (await peer.answer(3)).status


async def test_many_late_requests_are_refused_a_few_at_a_time(limiter: Limiter) -> None:
    """Others wait meanwhile. In the end all are refused, and the connection goes on."""
    peer = await limiter.connect()
    peer.send(b"".join(opening(stream) for stream in range(1, 241, 2)))
    (end,) = limiter.server.peers
    await until(lambda: end.session is not None and end.session.streams == 120)
    for look in range(3):
        look_at_them(limiter, now() + 12 + look)
        await ping(peer, after=50 if look < 2 else 20)
    peer.send(h2.call(241, CHECK))
    await peer.until(h2.DATA, 241)


async def test_how_long_a_request_may_take_is_a_setting(begin: Begin) -> None:
    """In seconds."""
    limiter = await begin(GrpcOptions(request_timeout=60))
    peer = await limiter.connect()
    begun = now()
    peer.send(opening(1))
    await ping(peer)
    look_at_them(limiter, begun + 58)
    look_at_them(limiter, begun + 62)
    answers = await peer.answer(1)
    assert (DEADLINE_EXCEEDED, 1) == (answers.status, len(limiter.server.peers))


@pytest.mark.parametrize("kind", ["headers", "trailers"])
async def test_headers_that_do_not_end_in_time_end_the_connection(limiter: Limiter, kind: str) -> None:
    """nghttp2 waits for the rest of them, and would take nothing else meanwhile."""
    peer = await limiter.connect()
    if kind == "trailers":
        peer.send(opening(1) + h2.frame(h2.DATA, 0, 1, h2.message(CHECK)))
        peer.send(h2.frame(h2.HEADERS, h2.END_STREAM, 1, b""))
    else:
        peer.send(h2.frame(h2.HEADERS, 0, 1, h2.block(h2.CALL)))
    await until(lambda: any(end.session and end.session.streams for end in limiter.server.peers))
    look_at_them(limiter, now() + 12)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())


# Who may ask.


async def test_a_peer_that_may_not_ask_is_not_charged_when_it_has_gone(begin: Begin) -> None:
    """The right name in its certificate is looked at when it comes, and holds for what it has sent."""
    limiter = await begin(GrpcOptions(client_name="envoy.mesh"))
    (connection,) = await limiter.connections(1)
    assert connection.session
    connection.session.forbidden = True
    connection.data_received(h2.call(1, CHARGE_40))
    connection.connection_lost(None)
    await until(lambda: sum(calls for _, calls in limiter.answered) == 1)
    assert 0 == await limiter.counted()


def kept(*kinds: type) -> int:
    """How many objects of these classes there are."""
    gc.collect()
    return sum(isinstance(one, kinds) for one in gc.get_objects())


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs for the server."""
    return Authority()


@pytest.fixture
async def secured(begin: Begin, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Limiter:
    """A server with TLS that takes three connections."""
    files = authority.server().write(tmp_path_factory.mktemp("tls"))
    options = GrpcOptions("localhost:0", certificates=Certificates("gRPC", *files), max_connections=3)
    return await begin(options)


CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00"
"""How a ClientHello begins."""


async def test_connections_count_before_they_have_shaken_hands(secured: Limiter) -> None:
    """Silent ones, and those that stop in the middle."""
    peers = [await secured.connect(hello) for hello in (b"", CLIENT_HELLO, b"")]
    await until(lambda: len(secured.server.peers) == 3)
    assert [] == await (await secured.connect(b"")).rest()
    peers[0].close()
    await until(lambda: len(secured.server.peers) == 2)


@pytest.mark.parametrize("hello", [b"", CLIENT_HELLO])
async def test_a_handshake_that_ends_early_leaves_nothing(secured: Limiter, hello: bytes) -> None:
    """No connection, and no session of TLS or HTTP/2."""
    before = kept(Connection, Tls, Session)
    for _ in range(50):
        peer = await secured.connect(hello)
        await until(lambda: bool(secured.server.peers))
        peer.reset()
        await until(lambda: not secured.server.peers)
    assert before == kept(Connection, Tls, Session)
    assert 0 == secured.server.turn.budget.connections


async def test_a_call_in_records_of_one_byte_is_a_call(secured: Limiter, authority: Authority) -> None:
    """Each record is deciphered for itself, and some of them wait for the next turn."""
    peer = await secured.connect(b"", tls=authority.context())
    for byte in h2.MAGIC + h2.settings() + h2.call(1, CHARGE_40):
        peer.send(bytes((byte,)))
    assert OK == (await peer.answer(1)).status
    assert 40 == await secured.counted()


@pytest.mark.parametrize(
    ("hello", "answer"), [(h2.MAGIC, b""), (b"\x16\x03\x01\x00\x05" + b"\xff" * 5, b"\x15")]
)
async def test_what_is_no_tls_ends_the_connection(secured: Limiter, hello: bytes, answer: bytes) -> None:
    """With an alert, where it is like TLS."""
    peer = await secured.connect(hello)
    assert answer == (await peer.read())[:1]
    peer.close()
    await until(lambda: not secured.server.peers)


# The library.


def test_an_old_library_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line, instead of an end of the process later."""
    monkeypatch.setattr(native, "library_version", lambda: (0x012B00, "1.43.0"))
    with pytest.raises(StartError, match=r"libnghttp2 1\.52 or newer, and 1\.43\.0 is loaded"):
        native.check_library()


def test_the_library_that_is_loaded_is_new_enough() -> None:
    """Its number and its text are of one version."""
    number, text = library_version()
    assert number >= 0x013400
    assert [number >> 16, number >> 8 & 0xFF, number & 0xFF] == numbers(text.split("-")[0].split("."))


def numbers(parts: Iterable[str]) -> list[int]:
    return [int(part) for part in parts]
