"""One input of a fuzzer, played to `_http2.Session` as a peer, a server and an event loop might.

The first two bytes say how it is played (`Way`), and the rest is what the peer sends: as it comes over the
wire, or with `SPELT` as records. A record is a frame by its kind, flags, stream and payload, so that lengths
are right whatever is changed, and how often it comes, so that a few bytes are thousands of frames in one
read. Whatever comes, the session neither crashes nor raises, keeps within its bounds, writes whole frames,
and has nothing counted when it is over.
"""

from __future__ import annotations

from enum import IntFlag
from pathlib import Path

from ratelimit_service.core.errors import InternalError
from ratelimit_service.transports import _wire, wire
from ratelimit_service.transports.native._http2 import STREAMS, Budget, NativeCall, Session, Turn
from ratelimit_service.transports.native.methods import PATHS, REFLECT, WATCH

from ..transports import h2

MAX_MESSAGE = 4_096
MOST_STREAMS = STREAMS
ANSWER = b"\x08\x01"
"""OK to a check, SERVING to whoever asks for the health."""
PIECES = (1 << 24, 1, 7, 100)
"""Bytes of a read."""
MOST_READS = 500
MOST_SPELT = 1 << 18
"""Bytes that records come to at most."""
TRAFFIC = Path(__file__).with_name("traffic")
"""What real clients sent over whole connections, by `python -m tests.fuzz.record`."""

_STREAM = 512
"""Bytes that a stream counts: those of refused ones, which are about to be closed, come on top."""
_FAILED = InternalError("größer als 100 %")
_HEAD = 8
"""Bytes that come before the payload of a record: kind, flags, stream, the step to the stream of the next
time, how often it comes (in two), and the length of the payload (in two)."""
OPENING, WHOLE_CALL = 0x80, 0x81
"""Kinds of records that are no frames: the HEADERS of a call, with the payload behind them in HPACK, and a
call with the payload as its message."""
SCARCE_BYTES = 8_192
"""What a session may keep where it may keep little."""


class Way(IntFlag):
    """How an input is played. The two lowest bits choose among PIECES."""

    HELD = 4
    """Calls are answered only when the next piece is there."""
    DEAF = 8
    """Nothing is written until the end."""
    SPELT = 16
    LEAVING = 32
    """After half of it the server is told to stop."""
    GONE = 64
    """The connection is lost before the last calls are answered."""
    FAILING = 128
    """Every other call is answered with an error."""
    SLOW = 256
    """Three seconds pass between two reads."""
    BUSY = 512
    """One stream is the share of the connection in a turn."""
    SCARCE = 1024
    """Little may be kept."""


AS_IT_COMES = Way(0)
ALL = int(max(Way)) * 2 - 1


class Server:
    """What is behind a Session: answers all calls, with errors where it is `failing`."""

    def __init__(self, way: Way = AS_IT_COMES) -> None:
        self._failing = Way.FAILING in way
        self.most = SCARCE_BYTES if Way.SCARCE in way else 8 * MAX_MESSAGE
        self.budget = Budget(8 * self.most)
        self.turn = Turn(lambda: None, self.budget)
        if Way.BUSY in way:
            self.turn.share = 1
        self.last = 0
        """The last stream that was handed over."""
        self.session = Session(self.turn, self, PATHS, MAX_MESSAGE, self.most, 0, REFLECT, True)

    def take(self, data: bytes) -> int:
        """Feed the session, and answer its calls; how many there were."""
        calls = self.read(data)
        self.answer(calls)
        return len(calls)

    def read(self, data: bytes) -> list[NativeCall]:
        """Feed the session; its calls."""
        while (taken := self.session.feed(data)) < len(data):
            data = data[taken:]
            self.turn.begin()
        self.turn.begin()
        calls = self.turn.take_calls()
        assert all(0 == call.method for call in calls)
        for call in calls:
            read(call.body)
        calls += self.turn.take_others()
        self.last = max([self.last, *(call.number for call in calls)])
        assert all(len(call.body) <= MAX_MESSAGE for call in calls)
        assert self.session.streams <= MOST_STREAMS
        assert self.session.waiting <= self.most + _STREAM * (MOST_STREAMS + 1)
        return calls

    def answer(self, calls: list[NativeCall]) -> None:
        """Answer them as the service, the health service and reflection do."""
        for number, call in enumerate(calls):
            if call.method == WATCH:
                if self.session.send(call.number, ANSWER):
                    self.session.send(call.number, ANSWER)
            elif call.method >= REFLECT:
                if call.last or (self._failing and number % 2):
                    status, message = call.wrong or (0, b"")
                    self.session.end(call.number, status)
                    call.fail(status, message.decode())
                else:
                    self.session.send(call.number, ANSWER * 1_000)
            elif self._failing and number % 2:
                call.reply(_FAILED)
            else:
                call.reply(ANSWER)  # type: ignore[arg-type]
        for call in self.turn.take_answered():
            if call.answer is _FAILED:
                call.fail(13, str(_FAILED))
            else:
                call.write(ANSWER)
        assert len(self.turn.take_owners()) <= 1
        self.turn.end()

    def end(self, calls: list[NativeCall]) -> None:
        """End those that stay."""
        for call in calls:
            if call.method >= WATCH:
                self.session.end(call.number)


def play(data: bytes) -> None:
    """One input."""
    way, sent = Way(int.from_bytes(data[:2], "little") & ALL), data[2:]
    read(sent)
    if Way.SPELT in way:
        sent = spelt(sent)
    server = Server(way)
    session = server.session
    size = max(PIECES[way & 3], len(sent) // MOST_READS)
    held: list[NativeCall] = []
    watches: list[NativeCall] = []
    written = bytearray()
    leaves = len(sent) // 2 if Way.LEAVING in way else -1
    now = 0
    for at in range(0, len(sent), size):
        calls = server.read(sent[at : at + size])
        watches += [call for call in calls if call.method >= WATCH]
        if Way.HELD in way:
            calls, held = held, calls
        server.answer(calls)
        if at <= leaves < at + size:
            session.announce_goaway()
            session.goaway()
            server.end(watches)
        if Way.DEAF not in way:
            written += session.drain()
            if session.closed:
                break
        now += 3_000 if Way.SLOW in way else 1
        if session.check(now, 10_000, 10_000):
            break
    if Way.GONE in way:
        session.abandon()
    server.answer(held)
    server.end(watches)
    written += session.drain()
    assert_whole(written)
    assert server.last <= last_of_goaways(written), (
        "a call that was handed over is sent once more by its peer"
    )
    session.abandon()
    calls = held = watches = []
    assert (0, 0, 0) == (session.streams, session.waiting, server.budget.held)


def read(message: bytes) -> None:
    """Split and read it as a RateLimitRequest: what the compiled module makes of it, wire.py does as well."""
    if (parts := _wire.split(message)) is not None:
        assert parts == wire.split(message)
        found = _wire.read(parts[0])
        assert found is None or found == wire.read(parts[0])
    _wire.read(message)


def assert_whole(written: bytearray) -> None:
    """What was written is frames, each from its beginning to its end."""
    at = 0
    while at < len(written):
        at += 9 + int.from_bytes(written[at : at + 3], "big")
    assert at == len(written), (at, len(written))


def last_of_goaways(written: bytes | bytearray) -> int:
    """The last stream that the peer is told is served."""
    last, at = 2**31 - 1, 0
    while at < len(written):
        size = int.from_bytes(written[at : at + 3], "big")
        if written[at + 3] == h2.GOAWAY:
            last = min(last, int.from_bytes(written[at + 9 : at + 13], "big"))
        at += 9 + size
    return last


def spelt(records: bytes) -> bytes:
    """The greeting, and frames as they are given."""
    sent = bytearray(h2.MAGIC)
    at = 0
    while at + _HEAD <= len(records) and len(sent) < MOST_SPELT:
        kind, flags, stream, step = records[at : at + 4]
        times = int.from_bytes(records[at + 4 : at + 6], "big")
        size = int.from_bytes(records[at + 6 : at + _HEAD], "big")
        at += _HEAD
        payload = records[at : at + size]
        at += size
        for number in range(times % (MOST_SPELT // (len(payload) + 9)) + 1):
            stream_now = (stream + number * step) & 0x7FFF_FFFF
            if kind == OPENING:
                sent += h2.frame(h2.HEADERS, flags, stream_now, _CALL + payload)
            elif kind == WHOLE_CALL:
                sent += h2.call(stream_now, payload)
            else:
                sent += h2.frame(kind, flags, stream_now, payload)
    return bytes(sent[:MOST_SPELT])


_CALL = h2.block(h2.CALL)


def record(
    kind: int, flags: int, stream: int, payload: bytes = b"", *, times: int = 1, step: int = 0
) -> bytes:
    """A frame as `spelt` reads it."""
    head = bytes((kind, flags, stream, step)) + (times - 1).to_bytes(2, "big")
    return head + len(payload).to_bytes(2, "big") + payload


def spell(traffic: bytes) -> bytes:
    """The reverse of `spelt`, for frames on early streams; others are left out."""
    records = bytearray()
    at = len(h2.MAGIC)
    while at + 9 <= len(traffic):
        size, kind, flags = int.from_bytes(traffic[at : at + 3], "big"), traffic[at + 3], traffic[at + 4]
        stream = int.from_bytes(traffic[at + 5 : at + 9], "big") & 0x7FFF_FFFF
        if stream < 256:
            records += record(kind, flags, stream, traffic[at + 9 : at + 9 + size])
        at += 9 + size
    return bytes(records)


CONTEXT = [
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    (b"tracestate", b"a=1"),
]


def floods() -> dict[str, bytes]:
    """Thousands of frames each, as records."""
    headers = h2.END_HEADERS
    first = record(h2.SETTINGS, 0, 0)
    opened = first + record(OPENING, headers, 1)
    table = h2.remembered([(b"x", b"a" * 3_900)])
    asking = first + record(h2.HEADERS, headers, 1, h2.block(h2.replaced(path=PATHS[REFLECT])))
    question = h2.message(b"\x3a\1*")
    many = b"".join(b"\0\4" + number.to_bytes(4, "big") for number in range(32))
    wrong = record(h2.PING, 0, 0, b"1") + record(h2.WINDOW_UPDATE, 0, 1, b"1")
    return {
        "empty data": opened + record(h2.DATA, 0, 1, times=1_000) + wrong,
        "tiny data": opened + record(h2.DATA, 0, 1, b"\0", times=5_000),
        "padding": opened + record(h2.DATA, 0x8, 1, b"\x05\0\0\0\0\0", times=5_000),
        "streams": first + record(OPENING, headers, 1, times=3_000, step=2),
        "calls": first + record(WHOLE_CALL, 0, 1, b"\x0a\1d", times=3_000, step=2),
        "resets": first
        + record(OPENING, headers, 1, times=990, step=2)
        + record(h2.RST_STREAM, 0, 1, bytes(4), times=990, step=2),
        "pings": first + record(h2.PING, 0, 0, bytes(8), times=3_000) + wrong,
        "settings": first
        + record(OPENING, headers, 1, times=900, step=2)
        + record(h2.SETTINGS, 0, 0, many, times=500),
        "goaways": first
        + record(OPENING, headers, 1, times=900, step=2)
        + record(h2.GOAWAY, 0, 0, bytes(8), times=500),
        "windows": opened + record(h2.WINDOW_UPDATE, 0, 1, b"\0\0\0\1", times=5_000),
        "priorities": opened + record(h2.PRIORITY, 0, 1, bytes(5), times=3_000),
        "continuations": first + record(OPENING, 0, 1) + record(h2.CONTINUATION, 0, 1, b"", times=100),
        "bomb": first
        + record(OPENING, 0, 1, table)
        + record(h2.CONTINUATION, 0, 1, b"\xbe" * 9_000, times=8),
        "bombs": first
        + record(OPENING, headers, 1, table)
        + record(OPENING, 5, 3, b"\xbe" * 4, times=900, step=2),
        "trailers": opened + record(h2.HEADERS, headers, 1, b"\x00\1x\1y", times=900),
        "trace contexts": first + record(OPENING, headers, 1, h2.block(CONTEXT * 3), times=900, step=2),
        "questions": asking + record(h2.DATA, 0, 1, question * 20, times=90),
        "parts of questions": asking
        + record(h2.DATA, 0, 1, question[:-1])
        + record(h2.DATA, 0, 1, question[-1:] + question[:-1], times=900)
        + record(h2.DATA, h2.END_STREAM, 1),
        "questions that begin": first
        + record(h2.HEADERS, headers, 1, h2.block(h2.replaced(path=PATHS[REFLECT])), times=900, step=2)
        + record(h2.DATA, 0, 1, question[:-1], times=900, step=2),
        "no questions": asking + record(h2.DATA, 0, 1, question + b"\1\0\0\0\1?" + question, times=3) + wrong,
        "dribble": record(h2.SETTINGS, 0, 0, b"\0\4\0\0\0\0")
        + record(WHOLE_CALL, 0, 1, b"\x0a\1d", times=900, step=2)
        + record(h2.WINDOW_UPDATE, 0, 1, b"\0\0\0\1", times=900, step=2),
    }


def by_hand() -> bytes:
    """What a client may send besides calls, each thing once."""
    check = bytes.fromhex("0a036c6c6d12100a0c0a047465616d12046a736f6e1a00")
    return b"".join(
        (
            h2.MAGIC,
            h2.settings(initial_window_size=3),
            h2.call(1, check),
            h2.frame(h2.HEADERS, 0, 3, h2.block(h2.CALL)),
            h2.frame(h2.CONTINUATION, h2.END_HEADERS, 3, h2.block([(b"grpc-timeout", b"20m"), *CONTEXT])),
            h2.frame(h2.PRIORITY, 0, 3, bytes(5)),
            h2.frame(h2.DATA, 0, 3, h2.message(check)[:7]),
            h2.frame(h2.PING, 0, 0, bytes(8)),
            h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(check)[7:]),
            h2.frame(h2.WINDOW_UPDATE, 0, 1, (100).to_bytes(4, "big")),
            h2.call(5, b"", h2.replaced(path=PATHS[WATCH])),
            h2.frame(h2.RST_STREAM, 0, 5, (8).to_bytes(4, "big")),
            h2.call(7, check, h2.replaced(content_type=b"text/plain")),
            h2.settings(initial_window_size=65_535),
            h2.frame(h2.GOAWAY, 0, 0, bytes(8)),
        )
    )


def traffic() -> dict[str, bytes]:
    """What was sent over whole connections, by whom."""
    return {
        "hand": by_hand(),
        **{path.stem: path.read_bytes() for path in sorted(TRAFFIC.glob("*.bin"))},
    }
