"""Follows the calls of one connection in a copy of its bytes: no socket, no answer.

A connection is read as its two ends read it: HPACK needs every block of headers from the first on. So a
connection of which a byte is missing cannot be followed any further.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

import grpc
import hpack
from google.protobuf.message import DecodeError

from ...core.text import printable
from ...transports.grpc_method import PATH
from .answers import Answer
from .frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    Frame,
    Frames,
    Unfollowable,
    unpadded,
)

MOST_STREAMS = 10_000
"""The most calls in flight in one connection that are followed."""

MOST_MESSAGE = 4 << 20
"""The largest message that is compared: that of gRPC servers by default."""

MOST_HELD = 64 << 20
"""The most bytes of calls in flight in one connection that are kept."""

MOST_HEADERS = 64 << 10
"""The most bytes of a block of headers, with the heads of its frames: gRPC accepts 16 KiB by default."""

_LARGEST_TABLE = 1 << 20
"""The table size of HPACK; peers use 4 KiB unless the other side allows more."""

_PREFIX = 5
"""Bytes before a message of gRPC."""

_REFUSED = 7
"""RST_STREAM with this code: the server has done nothing, and clients repeat the call."""

_STATUSES = {str(status.value[0]): status.name for status in grpc.StatusCode}
_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    **dict.fromkeys(("429", "502", "503", "504"), "UNAVAILABLE"),
}
"""The status of an answer without `grpc-status`, as gRPC clients derive it."""


class CallStarted(NamedTuple):
    """A call has arrived in full. `data` is its message; None if it cannot be compared for the reason
    `why`.
    """

    stream: int
    data: bytes | None
    why: str = ""


class CallAnswered(NamedTuple):
    """The first service has answered a call that has arrived in full."""

    stream: int
    answer: Answer


class CallAborted(NamedTuple):
    """A call that has arrived in full has ended without an answer. `counted`: the first service may have
    counted it.
    """

    stream: int
    why: str
    counted: bool = True


Event = CallStarted | CallAnswered | CallAborted


@dataclass(slots=True)
class _Stream:
    """One call: the body of its request until that is complete, then that of the answer."""

    body: bytearray = field(default_factory=bytearray)
    held: int = 0
    """Bytes that it has in the budgets."""
    too_large: bool = False
    asked: bool = False
    headers: dict[bytes, bytes] = field(default_factory=dict)


class Budget:
    """The bytes that the calls in flight of several connections have together; `most` is the bound."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class CallFollower:
    """The calls of ShouldRateLimit in one connection. Every method raises Unfollowable at its end.

    Its bytes are also taken from `shared`, the budget of all connections.
    """

    def __init__(self, shared: Budget | None = None) -> None:
        self._shared = shared or Budget(MOST_HELD)
        self._streams: dict[int, _Stream] = {}
        self._held = 0
        self._caller, self._theirs = _Direction(PREFACE), _Direction()

    def from_caller(self, data: bytes) -> Iterator[Event]:
        """Take bytes that a caller has sent."""
        for frame in self._caller.frames(data):
            stream = self._streams.get(frame.stream)
            if frame.kind in (HEADERS, DATA) and stream is not None and stream.asked:
                continue  # an error of the caller: its request has ended
            if frame.kind == HEADERS and stream is None:
                self._open(frame.stream, self._caller.headers)
            elif frame.kind == DATA and stream is not None:
                self._add(stream, unpadded(frame))
            elif frame.kind == RST_STREAM and stream is not None:
                yield from self._end(frame.stream, "the caller went before an answer")
            elif frame.kind == SETTINGS:
                self._theirs.allow(frame)
            if frame.kind in (HEADERS, DATA) and frame.flags & END_STREAM and frame.stream in self._streams:
                yield self._asked(frame.stream)

    def from_theirs(self, data: bytes) -> Iterator[Event]:
        """Take bytes that the first service has sent."""
        for frame in self._theirs.frames(data):
            stream = self._streams.get(frame.stream)
            if frame.kind == SETTINGS:
                self._caller.allow(frame)
            elif frame.kind == RST_STREAM and stream is not None:
                refused = int.from_bytes(frame.payload) == _REFUSED
                yield from self._end(frame.stream, "theirs has broken the call off", counted=not refused)
            elif frame.kind == GOAWAY:
                last = int.from_bytes(frame.payload[:4]) & 0x7FFF_FFFF
                for number in [number for number in self._streams if number > last]:
                    yield from self._end(number, "theirs has broken the call off", counted=False)
            elif stream is not None and frame.kind in (HEADERS, DATA):
                if frame.kind == HEADERS:
                    stream.headers |= self._theirs.headers
                elif stream.asked:
                    self._add(stream, unpadded(frame))
                if frame.flags & END_STREAM:
                    self._close(frame.stream)
                    if stream.asked:  # else it was answered before it had arrived, and nothing was counted
                        yield CallAnswered(frame.stream, _answer(stream))

    def lost(self, why: str) -> Iterator[Event]:
        """Take the end of the connection."""
        for number in list(self._streams):
            yield from self._end(number, why)

    def drop(self) -> None:
        """Free the calls in flight: the connection is followed no further."""
        for number in list(self._streams):
            self._close(number)

    def _open(self, number: int, headers: dict[bytes, bytes]) -> None:
        if headers.get(b":path") != PATH.encode():
            return
        if len(self._streams) >= MOST_STREAMS:
            raise Unfollowable(f"{MOST_STREAMS:,} of its calls are in flight")
        self._streams[number] = _Stream()

    def _add(self, stream: _Stream, data: bytes) -> None:
        if stream.too_large or len(stream.body) + len(data) > MOST_MESSAGE + _PREFIX:
            stream.too_large = True
            return
        stream.body += data
        self._hold(stream, len(data))
        if self._held > MOST_HELD:
            raise Unfollowable(f"its calls in flight have more than {MOST_HELD:,} bytes")
        if self._shared.held > self._shared.most:
            raise Unfollowable(f"all calls in flight have more than {self._shared.most:,} bytes")

    def _hold(self, stream: _Stream, size: int) -> None:
        stream.held += size
        self._held += size
        self._shared.held += size

    def _asked(self, number: int) -> CallStarted:
        stream = self._streams[number]
        stream.asked = True
        data, why = _message(stream)
        if data is None:
            self._hold(stream, -stream.held)  # otherwise, the message is kept until its answer
        stream.body, stream.too_large = bytearray(), False
        return CallStarted(number, data, why)

    def _end(self, number: int, why: str, *, counted: bool = True) -> Iterator[CallAborted]:
        stream = self._close(number)
        if stream.asked:
            yield CallAborted(number, why, counted)

    def _close(self, number: int) -> _Stream:
        stream = self._streams.pop(number)
        self._hold(stream, -stream.held)
        return stream


class _Direction:
    """One direction of a connection: its frames, and the last complete headers."""

    def __init__(self, preface: bytes = b"") -> None:
        self._frames = Frames(preface)
        self._decoder = hpack.Decoder()
        self._block: list[bytes] = []
        self._size = 0
        self._begun: Frame | None = None
        self.headers: dict[bytes, bytes] = {}

    def frames(self, data: bytes) -> Iterator[Frame]:
        """Yield frames; HEADERS once its headers are decoded, with the CONTINUATION frames after it."""
        for frame in self._frames.feed(data):
            if frame.kind == PUSH_PROMISE:
                raise Unfollowable("it has a server push")
            if self._begun is not None:
                if frame.kind != CONTINUATION:
                    raise Unfollowable("a block of headers is broken")
                self._block.append(frame.payload)
                self._size += HEAD + len(frame.payload)  # empty frames take memory as well
            elif frame.kind == HEADERS:
                self._begun = frame
                self._block.append(unpadded(frame))
                self._size = HEAD + len(frame.payload)
            else:
                yield frame
                continue
            if self._size > MOST_HEADERS:
                raise Unfollowable("its headers are too large")
            if frame.flags & END_HEADERS:
                begun, self._begun = self._begun, None
                self.headers = self._decoded()
                yield begun

    def allow(self, settings: Frame) -> None:
        """Take the table of HPACK that the receiver of this direction allows.

        A smaller one is ignored: headers that were sent before its receiver knew of it are valid.
        """
        if settings.flags & ACK:
            return
        for at in range(0, len(settings.payload) - 5, 6):
            if int.from_bytes(settings.payload[at : at + 2]) == 1:
                allowed = int.from_bytes(settings.payload[at + 2 : at + 6])
                decoder = self._decoder
                decoder.max_allowed_table_size = max(
                    decoder.max_allowed_table_size, min(allowed, _LARGEST_TABLE)
                )

    def _decoded(self) -> dict[bytes, bytes]:
        block, self._block = b"".join(self._block), []
        try:
            return {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
        except hpack.HPACKError as error:
            raise Unfollowable(f"its headers cannot be decoded: {error}") from None


def _message(stream: _Stream) -> tuple[bytes | None, str]:
    """Return the message in a body, or why it cannot be compared."""
    data = bytes(stream.body)
    if stream.too_large:
        return None, f"a message has more than {MOST_MESSAGE:,} bytes"
    if len(data) < _PREFIX or len(data) != _PREFIX + int.from_bytes(data[1:_PREFIX]):
        return None, "it is not one message of gRPC"
    if data[0]:
        return None, "the message is compressed"
    return data[_PREFIX:], ""


def _answer(stream: _Stream) -> Answer:
    """Return the answer as a gRPC client would."""
    headers = stream.headers
    status = headers.get(b"grpc-status", b"").decode(errors="replace")
    details = printable(unquote(headers.get(b"grpc-message", b"").decode(errors="replace")))
    if not status:
        http = headers.get(b":status", b"").decode(errors="replace")
        return Answer(
            _OF_HTTP.get(http, "UNKNOWN"), printable(f"an answer of HTTP, {http}, without grpc-status")
        )
    if status != "0":
        return Answer(_STATUSES.get(status.lstrip("0"), "UNKNOWN"), details)
    data, why = _message(stream)
    if data is None:
        return Answer("INTERNAL", why)
    try:
        return Answer.of(data)
    except DecodeError:
        return Answer("INTERNAL", "the reply is no RateLimitResponse")
