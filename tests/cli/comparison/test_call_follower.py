"""Calls are found in a copy of the bytes of a connection, however these are split and whatever else is in
them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.settings
import hpack
import pytest

from ratelimit_service.cli.comparison import call_follower
from ratelimit_service.cli.comparison.answers import Answer
from ratelimit_service.cli.comparison.call_follower import (
    Budget,
    CallAborted,
    CallAnswered,
    CallFollower,
    CallStarted,
    Event,
)
from ratelimit_service.cli.comparison.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    Frames,
    Head,
    Heads,
    Unfollowable,
    goaway,
)
from ratelimit_service.transports.grpc_method import PATH

from .answering import answer, request, status

ASKED = request("a").SerializeToString()
_response = answer(status(7)).response
assert _response is not None
REPLY = _response.SerializeToString()


def message(data: bytes, compressed: int = 0) -> bytes:
    """Return the message with its prefix."""
    return bytes([compressed]) + len(data).to_bytes(4) + data


class Talk:
    """A caller and a service whose bytes are followed, `cut` bytes at a time."""

    def __init__(self, cut: int = 0) -> None:
        self.cut = cut
        self.caller = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.service = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.following = CallFollower()
        self.events: list[Event] = []
        self.caller.initiate_connection()
        self.service.initiate_connection()
        self.turn()

    def turn(self) -> None:
        """Pass on the output of both until neither has any."""
        while (ours := self.caller.data_to_send()) or self.service._data_to_send:
            for part in self._parts(ours):
                self.events += self.following.from_caller(part)
            if ours:
                self.service.receive_data(ours)
            theirs = self.service.data_to_send()
            for part in self._parts(theirs):
                self.events += self.following.from_theirs(part)
            if theirs:
                self.caller.receive_data(theirs)

    def _parts(self, data: bytes) -> Iterable[bytes]:
        cut = self.cut or len(data) or 1
        return [data[at : at + cut] for at in range(0, len(data), cut)]

    def ask(self, body: bytes | None = None, path: str = PATH, **more: str) -> int:
        number = self.caller.get_next_available_stream_id()
        names = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            *more.items(),
        ]
        self.caller.send_headers(number, names)
        self.caller.send_data(number, message(ASKED) if body is None else body, end_stream=True)
        self.turn()
        return number

    def answer(self, number: int, body: bytes = message(REPLY), status: str = "0", **trailers: str) -> None:
        self.service.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
        self.service.send_data(number, body)
        named = [(name.replace("_", "-"), value) for name, value in trailers.items()]
        self.service.send_headers(number, [("grpc-status", status), *named], end_stream=True)
        self.turn()


@pytest.mark.parametrize("cut", [0, 1, 2, 7, 10, 64])
def test_calls_and_answers_are_found_however_the_bytes_are_cut(cut: int) -> None:
    """Several calls run at the same time, between calls of other methods, with headers from the HPACK
    table.
    """
    talk = Talk(cut)
    first = talk.ask(traceparent="00-1-2-01")
    talk.ask(path="/grpc.health.v1.Health/Check")
    second = talk.ask(traceparent="00-1-2-01")
    talk.answer(second)
    talk.answer(first, b"", "14", grpc_message="away%20%0A")
    assert [
        CallStarted(first, ASKED),
        CallStarted(second, ASKED),
        CallAnswered(second, Answer.of(REPLY)),
        CallAnswered(first, Answer("UNAVAILABLE", "away \\n")),
    ] == talk.events
    assert [] == list(talk.following.lost("gone"))


@pytest.mark.parametrize(
    "headers, expected",
    [
        ([(":status", "503")], Answer("UNAVAILABLE", "an answer of HTTP, 503, without grpc-status")),
        ([(":status", "404")], Answer("UNIMPLEMENTED", "an answer of HTTP, 404, without grpc-status")),
        ([(":status", "302")], Answer("UNKNOWN", "an answer of HTTP, 302, without grpc-status")),
        ([(":status", "200"), ("grpc-status", "8")], Answer("RESOURCE_EXHAUSTED")),
        ([(":status", "200"), ("grpc-status", "99")], Answer("UNKNOWN")),
        ([(":status", "200"), ("grpc-status", "x")], Answer("UNKNOWN")),
        ([(":status", "200"), ("grpc-status", "0")], Answer("INTERNAL", "it is not one message of gRPC")),
    ],
)
def test_a_status_is_read_as_a_client_reads_it(headers: list[tuple[str, str]], expected: Answer) -> None:
    """This includes the HTTP status of a proxy before the first service."""
    talk = Talk()
    number = talk.ask()
    talk.service.send_headers(number, headers, end_stream=True)
    talk.turn()
    assert CallAnswered(number, expected) == talk.events[-1]


def test_an_invalid_reply_is_an_error_for_the_caller() -> None:
    """A generated client returns INTERNAL for it."""
    talk = Talk()
    talk.answer(talk.ask(), message(b"\xff\xff"))
    assert CallAnswered(1, Answer("INTERNAL", "the reply is no RateLimitResponse")) == talk.events[-1]


@pytest.mark.parametrize(
    "body, why",
    [
        (message(ASKED, compressed=1), "the message is compressed"),
        (message(ASKED)[:-1], "it is not one message of gRPC"),
        (message(ASKED) * 2, "it is not one message of gRPC"),
        (b"", "it is not one message of gRPC"),
    ],
)
def test_calls_that_cannot_be_read_are_named(body: bytes, why: str) -> None:
    """The tee passes them on unchanged, and the comparison skips them."""
    talk = Talk()
    number = talk.ask(body)
    talk.answer(number)
    assert [CallStarted(number, None, why), CallAnswered(number, Answer.of(REPLY))] == talk.events


def test_a_message_may_be_larger_than_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept, and the next one is compared."""
    monkeypatch.setattr(call_follower, "MOST_MESSAGE", 100)
    talk = Talk()
    talk.answer(talk.ask(message(bytes(101))))
    talk.answer(talk.ask(), message(bytes(101)))
    talk.answer(talk.ask())
    why = "a message has more than 100 bytes"
    assert [
        CallStarted(1, None, why),
        CallAnswered(1, Answer.of(REPLY)),
        CallStarted(3, ASKED),
        CallAnswered(3, Answer("INTERNAL", why)),
        CallStarted(5, ASKED),
        CallAnswered(5, Answer.of(REPLY)),
    ] == talk.events


def test_only_calls_that_may_be_counted_are_passed_on() -> None:
    """Calls that the first service refuses with REFUSED_STREAM are sent again by their callers."""
    talk = Talk()
    cancelled, refused, broken, unknown, left = (talk.ask() for _ in range(5))
    talk.caller.reset_stream(cancelled, 8)
    talk.service.reset_stream(refused, 7)
    talk.service.reset_stream(broken, 2)
    talk.turn()
    talk.service.close_connection(last_stream_id=unknown)
    theirs = talk.service.data_to_send()
    ended = [*talk.events[5:], *talk.following.from_theirs(theirs), *talk.following.lost("gone")]
    why = "theirs has broken the call off"
    assert [
        CallAborted(cancelled, "the caller went before an answer"),
        CallAborted(refused, why, counted=False),
        CallAborted(broken, why),
        CallAborted(left, why, counted=False),
        CallAborted(unknown, "gone"),
    ] == ended


def test_an_answer_to_an_incomplete_call_is_not_compared() -> None:
    """The first service refused the call early, and counted nothing."""
    talk = Talk()
    talk.caller.send_headers(
        1, [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x")]
    )
    talk.turn()
    talk.service.send_headers(1, [(":status", "200"), ("grpc-status", "8")], end_stream=True)
    talk.turn()
    assert [] == talk.events


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def block(path: str = PATH) -> bytes:
    return bytes(hpack.Encoder().encode([(":method", "POST"), (":path", path)]))


def test_headers_may_be_padded_and_in_several_frames() -> None:
    """They may have a priority, and data may be padded."""
    headers = block()
    padded = bytes([3]) + bytes(5) + headers[:4] + bytes(3)
    read = CallFollower()
    data = [
        PREFACE,
        frame(HEADERS, PADDED | PRIORITY, 1, padded),
        frame(CONTINUATION, 0, 1, headers[4:6]),
        frame(CONTINUATION, END_HEADERS, 1, headers[6:]),
        frame(0, PADDED | END_STREAM, 1, bytes([9]) + message(ASKED) + bytes(9)),
    ]
    assert [CallStarted(1, ASKED)] == list(read.from_caller(b"".join(data)))


@pytest.mark.parametrize(
    "data, why",
    [
        (b"GET / HTTP/1.1\r\n", "it is not HTTP/2"),
        (PREFACE + b"\xff" * HEAD, "a frame has 16,777,215 bytes"),
        (PREFACE + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
            "its headers cannot be decoded: "),
        (PREFACE + frame(HEADERS, PADDED | END_HEADERS, 1, b"\x09a"), "a frame is broken"),
        (PREFACE + frame(HEADERS, PADDED | END_HEADERS, 1, b""), "a frame is broken"),
        (PREFACE + frame(HEADERS, 0, 1, b"") + frame(0, 0, 1, b""), "a block of headers is broken"),
        (PREFACE + frame(HEADERS, 0, 1, b"") + 2 * frame(CONTINUATION, 0, 1, bytes(1 << 19))
            + frame(CONTINUATION, 0, 1, b"x"),
         "its headers are too large"),
        (PREFACE + frame(HEADERS, 0, 1, b"") + 7_500 * frame(CONTINUATION, 0, 1, b""),
            "its headers are too large"),
        (PREFACE + frame(5, END_HEADERS, 1, b""), "it has a server push"),
    ],
)  # fmt: skip
def test_bytes_that_cannot_be_followed_are_named(data: bytes, why: str) -> None:
    """The comparison skips the connection, and its peers decide about it."""
    with pytest.raises(Unfollowable, match=f"^{why}"):
        list(CallFollower().from_caller(data))


def test_calls_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both their number and their bytes are."""
    opened = [frame(HEADERS, END_HEADERS, number, block()) for number in (1, 3, 5)]
    monkeypatch.setattr(call_follower, "MOST_STREAMS", 2)
    with pytest.raises(Unfollowable, match="2 of its calls are in flight"):
        list(CallFollower().from_caller(PREFACE + b"".join(opened)))
    monkeypatch.setattr(call_follower, "MOST_HELD", 10)
    read = CallFollower()
    for number in (1, 3, 5, 7, 9):  # complete ones are no longer kept
        list(
            read.from_caller((PREFACE if number == 1 else b"") + frame(HEADERS, END_HEADERS, number, block()))
        )
        list(read.from_caller(frame(0, END_STREAM, number, message(b"x"))))
        list(read.from_theirs(frame(3, 0, number, bytes(4))))
    with pytest.raises(Unfollowable, match="its calls in flight have more than 10 bytes"):
        list(read.from_caller(frame(HEADERS, END_HEADERS, 11, block()) + frame(0, 0, 11, bytes(11))))


def test_connections_share_a_budget() -> None:
    """A message has its part until its call has ended. A connection that is followed no further frees its
    own.
    """
    shared = Budget(20)
    one, other = CallFollower(shared), CallFollower(shared)
    opened = PREFACE + frame(HEADERS, END_HEADERS, 1, block())
    assert [CallStarted(1, b"12345")] == list(
        one.from_caller(opened + frame(0, END_STREAM, 1, message(b"12345")))
    )
    assert [] == list(one.from_caller(2 * frame(0, END_STREAM, 1, message(b"again"))))  # after its end
    assert 10 == shared.held
    with pytest.raises(Unfollowable, match=r"^all calls in flight have more than 20 bytes"):
        list(other.from_caller(opened + frame(0, 0, 1, bytes(11))))
    other.drop()
    assert 10 == shared.held
    list(one.from_theirs(frame(3, 0, 1, bytes(4))))
    assert 0 == shared.held


def test_an_invalid_grpc_status_is_unknown() -> None:
    """It may have any number of digits: Python refuses to convert more than 4,300."""
    for code, name in (("9" * 5_000, "UNKNOWN"), ("x", "UNKNOWN"), ("014", "UNAVAILABLE")):
        talk = Talk()
        number = talk.ask()
        talk.answer(number, b"", code)
        assert CallAnswered(number, Answer(name)) == talk.events[-1]


def test_a_table_of_headers_may_be_larger_where_a_peer_allows_it() -> None:
    """The sender of headers does not yet know a smaller one."""
    talk = Talk()
    talk.ask()
    talk.service.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 65_536})
    talk.turn()
    value = "v" * 5_000
    for _ in range(2):
        talk.ask(large=value)
    read = CallFollower()
    smaller = frame(4, 0, 0, (1).to_bytes(2) + bytes(4))
    assert [] == list(read.from_theirs(smaller))
    assert 4 == len([*talk.events, *read.from_caller(PREFACE + frame(HEADERS, 5, 1, block()))])


def test_strange_bytes_raise_nothing_else() -> None:
    """Frames of every kind have random contents, some after a valid start of the connection."""
    for seed in range(400):
        chance = random.Random(seed)
        read = CallFollower()
        try:
            list(read.from_caller(PREFACE + frame(HEADERS, END_HEADERS, 1, block())))
            for _ in range(30):
                data = frame(
                    chance.choice((0, 1, 3, 4, 7, 9, chance.randrange(256))),
                    chance.choice((0, 1, 4, 5, chance.randrange(256))),
                    chance.choice((0, 1, 3, chance.randrange(2**32))),
                    chance.randbytes(chance.choice((0, 1, 3, 4, 8, 40))),
                )
                list(chance.choice((read.from_caller, read.from_theirs))(data))
            list(read.lost("gone"))
        except Unfollowable:
            pass


def test_heads_are_found_without_payloads() -> None:
    """The bytes may be split anywhere. A frame is inserted only between frames, and never into headers."""
    data = (
        frame(4, 0, 0, bytes(12)) + frame(HEADERS, 0, 1, b"abc") + frame(CONTINUATION, END_HEADERS, 1, b"d")
    )
    ends = {21: True, 33: False, 43: True}
    for cut in range(1, len(data) + 1):
        heads = Heads()
        found: list[Head] = []
        places: dict[int, bool] = {}
        for at in range(0, len(data), cut):
            found += heads.feed(data[at : at + cut])
            places[min(at + cut, len(data))] = heads.between
        assert [(4, 0, 0), (HEADERS, 0, 1), (CONTINUATION, END_HEADERS, 1)] == [tuple(each) for each in found]
        assert {place: ends.get(place, False) for place in places} == places
    assert not Heads().between
    (parsed,) = Frames().feed(goaway())
    assert (7, 0, 0, b"\x7f\xff\xff\xff" + bytes(4)) == tuple(parsed)
