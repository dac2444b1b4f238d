"""HTTP/2 for the load generator: requests are encoded before a run, and answers are parsed only as far as
needed.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from typing import NamedTuple

import hpack

from ratelimit_service.transports.grpc_method import PATH

MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
OVER_LIMIT = 2
DEFAULT_WINDOW = 65_535
OUR_WINDOW = 2**30
"""Bytes that the peer may send before a WINDOW_UPDATE."""

GRPC = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "limiter"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
HTTP = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "gateway"))

_HEAD = struct.Struct(">BHBBI")
"""The head of a frame: the length (its first byte, its other two), the kind, the flags, the stream."""
_SETTING = struct.Struct(">HI")
_MESSAGE_HEAD = 5
_OVERALL_CODE = b"\x08"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


HELLO = (
    MAGIC
    + frame(SETTINGS, 0, 0, _SETTING.pack(INITIAL_WINDOW_SIZE, 2**24))
    + frame(WINDOW_UPDATE, 0, 0, (OUR_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big"))
)


class Script(NamedTuple):
    """The bytes that a connection sends: request number n is `data[ends[n - 1]:ends[n]]`.

    `costs` has the bytes of the flow-control window that each request takes.
    """

    data: bytes
    ends: array[int]
    costs: array[int]


def grpc_script(bodies: Iterable[bytes]) -> Script:
    """Return calls with these framed messages, on streams 1, 3, 5, …"""
    encoder = hpack.Encoder()
    first = encoder.encode(GRPC)
    block = encoder.encode(GRPC)  # headers in the table take one byte each
    parts: list[bytes] = []
    ends, costs = array("Q"), array("L")
    at, stream = 0, 1
    head = _HEAD.pack
    for body in bodies:
        headers = first if stream == 1 else block
        size = len(body)
        call = (
            head(0, len(headers), HEADERS, END_HEADERS, stream)
            + headers
            + head(0, size, DATA, END_STREAM, stream)
            + body
        )
        parts.append(call)
        at += len(call)
        ends.append(at)
        costs.append(size)
        stream += 2
    return Script(b"".join(parts), ends, costs)


def http_script(name: str, values: Iterable[str]) -> Script:
    """Return requests without a body to a gateway, each with one of these values in a header."""
    encoder = hpack.Encoder()
    parts: list[bytes] = []
    ends, costs = array("Q"), array("L")
    at, stream = 0, 1
    for value in values:
        block = encoder.encode((*HTTP, (name, value)))
        parts.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
        at += len(parts[-1])
        ends.append(at)
        costs.append(0)
        stream += 2
    return Script(b"".join(parts), ends, costs)


class Reader:
    """Parses the bytes that a server sends on a connection.

    `messages` counts answers with a message, `over` those of them that refuse, `failed` streams that were
    reset. `window` is the flow-control window of the connection, `streams` the limit of concurrent streams.
    """

    def __init__(self) -> None:
        self.messages = self.over = self.failed = 0
        self.window = DEFAULT_WINDOW
        self.streams = 2**31
        self._rest = b""
        self._unannounced = 0

    def feed(self, data: bytes, finished: list[int]) -> bytes:
        """Parse received bytes, add ended streams to `finished`, and return the bytes to send."""
        unpack = _HEAD.unpack_from
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        reply = b""
        while size - at >= 9:
            high, low, kind, flags, stream = unpack(data, at)
            end = at + 9 + (high << 16 | low)
            if end > size:
                break
            if kind == HEADERS:
                if flags & END_STREAM:
                    finished.append(stream)
            elif kind == DATA:
                if end > at + 9:
                    self.messages += 1
                    if data[at + 15 : at + 16] == b"\x02" and data[at + 14 : at + 15] == _OVERALL_CODE:
                        self.over += 1
                    self._unannounced += end - at - 9
                if flags & END_STREAM:
                    finished.append(stream)
            else:
                reply += self._control(kind, flags, stream, data[at + 9 : end], finished)
            at = end
        self._rest = data[at:]
        if self._unannounced > OUR_WINDOW // 4:
            reply += frame(WINDOW_UPDATE, 0, 0, self._unannounced.to_bytes(4, "big"))
            self._unannounced = 0
        return reply

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, finished: list[int]) -> bytes:
        if kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind == PING and not flags & ACK:
            return frame(PING, ACK, 0, payload)
        elif kind == SETTINGS and not flags & ACK:
            for name, value in _SETTING.iter_unpack(payload):
                if name == MAX_CONCURRENT_STREAMS:
                    self.streams = value
                assert name != HEADER_TABLE_SIZE or value >= 4_096, (
                    "the server wants a smaller table of headers"
                )
            return frame(SETTINGS, ACK, 0)
        elif kind == RST_STREAM and any(payload):  # NO_ERROR only follows the end of the stream
            self.failed += 1
            finished.append(stream)
        elif kind == GOAWAY:
            raise ConnectionError(f"the server sends us away: {payload[4:].hex()}")
        return b""
