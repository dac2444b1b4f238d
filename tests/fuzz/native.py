"""One input of a fuzzer, played to `_http2.Session` as a peer, a server and an event loop might.

The first byte says how it is played (`Way`), and the rest is what the peer sends: as it comes over the wire, or with `SPELT`
as frames that are given by kind, flags, stream and payload, so that lengths are right whatever is changed. Whatever comes, the
session neither crashes nor raises, keeps within its bounds, and writes whole frames.
"""

from __future__ import annotations

from enum import IntFlag
from pathlib import Path

from ratelimit_service.core.errors import InternalError
from ratelimit_service.transports.native._http2 import Budget, Call, Session, Turn
from ratelimit_service.transports.native.connection import PATHS, WATCH

from ..transports import h2

MAX_MESSAGE = 4_096
MOST_STREAMS = 1_000
ANSWER = b"\x08\x01"
"""OK to a check, SERVING to whoever asks for the health."""
PIECES = (65_536, 1, 7, 100)
TRAFFIC = Path(__file__).with_name("traffic")
"""What real clients sent over whole connections, by `python -m tests.fuzz.record`."""

_FAILED = InternalError("größer als 100 %")
_HEAD = 5
"""Bytes that come before the payload of a frame that is spelt: kind, flags, stream, and the length of the payload in two."""


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


class Server:
    """What is behind a Session: answers all calls, with errors where it is `failing`."""

    def __init__(self, *, failing: bool = False) -> None:
        self._failing = failing
        self.budget = Budget(64 * MAX_MESSAGE)
        self.turn = Turn(lambda: None, self.budget)
        self.session = Session(self.turn, self, PATHS, MAX_MESSAGE, 8 * MAX_MESSAGE)

    def take(self, data: bytes) -> int:
        """Feed the session, and answer its calls; how many there were."""
        calls = self.read(data)
        self.answer(calls)
        return len(calls)

    def read(self, data: bytes) -> list[Call]:
        """Feed the session; its calls."""
        while (taken := self.session.feed(data)) < len(data):
            data = data[taken:]
            self.turn.begin()
        self.turn.begin()
        calls = self.turn.take_calls()
        assert all(call.method == 0 for call in calls)
        calls += self.turn.take_others()
        assert all(len(call.body) <= MAX_MESSAGE for call in calls)
        assert self.session.streams <= MOST_STREAMS
        return calls

    def answer(self, calls: list[Call]) -> None:
        """Answer them as the service and the health service do."""
        for number, call in enumerate(calls):
            if call.method == WATCH:
                if self.session.send(call.number, ANSWER):
                    self.session.send(call.number, ANSWER)
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

    def end(self, calls: list[Call]) -> None:
        """End those that stay."""
        for call in calls:
            if call.method == WATCH:
                self.session.end(call.number)


def play(data: bytes) -> None:
    """One input."""
    way, sent = Way(data[0] if data else 0), data[1:]
    if Way.SPELT in way:
        sent = spelt(sent)
    server = Server(failing=Way.FAILING in way)
    session = server.session
    size = PIECES[way & 3]
    held: list[Call] = []
    seen: list[Call] = []
    written = bytearray()
    leaves = len(sent) // 2 if Way.LEAVING in way else -1
    for at in range(0, len(sent), size):
        calls = server.read(sent[at : at + size])
        seen += calls
        if Way.HELD in way:
            calls, held = held, calls
        server.answer(calls)
        if at <= leaves < at + size:
            session.announce_goaway()
            session.goaway()
            server.end(seen)
        if Way.DEAF not in way:
            written += session.drain()
            if session.closed:
                break
        session.look(0, 10_000, 10_000)
    if Way.GONE in way:
        session.abandon()
    server.answer(held)
    server.end(seen)
    written += session.drain()
    assert_whole(written)
    session.abandon()


def assert_whole(written: bytearray) -> None:
    """What was written is frames, each from its beginning to its end."""
    at = 0
    while at < len(written):
        at += 9 + int.from_bytes(written[at : at + 3], "big")
    assert at == len(written), (at, len(written))


def spelt(records: bytes) -> bytes:
    """The greeting, and frames as they are given."""
    sent = [h2.MAGIC]
    at = 0
    while at + _HEAD <= len(records):
        kind, flags, stream = records[at : at + 3]
        size = int.from_bytes(records[at + 3 : at + _HEAD], "big")
        at += _HEAD
        sent.append(h2.frame(kind, flags, stream, records[at : at + size]))
        at += size
    return b"".join(sent)


def spell(traffic: bytes) -> bytes:
    """The reverse of `spelt`, for frames on early streams; others are left out."""
    records = bytearray()
    at = len(h2.MAGIC)
    while at + 9 <= len(traffic):
        size, kind, flags = int.from_bytes(traffic[at : at + 3], "big"), traffic[at + 3], traffic[at + 4]
        stream = int.from_bytes(traffic[at + 5 : at + 9], "big") & 0x7FFF_FFFF
        if stream < 256:
            records += (
                bytes((kind, flags, stream)) + size.to_bytes(2, "big") + traffic[at + 9 : at + 9 + size]
            )
        at += 9 + size
    return bytes(records)


def by_hand() -> bytes:
    """What a client may send besides calls, each thing once."""
    check = bytes.fromhex("0a036c6c6d12100a0c0a047465616d12046a736f6e1a00")
    return b"".join(
        (
            h2.MAGIC,
            h2.settings(initial_window_size=3),
            h2.call(1, check),
            h2.frame(h2.HEADERS, 0, 3, h2.block(h2.CALL)),
            h2.frame(h2.CONTINUATION, h2.END_HEADERS, 3, h2.block([(b"grpc-timeout", b"20m")])),
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
