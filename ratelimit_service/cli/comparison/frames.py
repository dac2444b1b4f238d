"""The frames of HTTP/2 in the bytes of a connection, for parts that only read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of a client."""

HEAD = 9
"""Bytes before the payload of a frame."""

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, GOAWAY, CONTINUATION = 0, 1, 3, 4, 5, 7, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20

MOST_BYTES = 1 << 20
"""The largest frame that is read with its payload. Peers send at most 16 KiB unless the other side allows
more.
"""


class Unfollowable(Exception):
    """The bytes cannot be read any further. The message says why."""


class Head(NamedTuple):
    """A frame without its payload."""

    kind: int
    flags: int
    stream: int


class Frame(NamedTuple):
    """A frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Heads:
    """Finds the heads of frames in one direction, whatever is in their payloads. The preface has `skipped`
    bytes.
    """

    __slots__ = ("_in_block", "_left", "_part", "begun")

    def __init__(self, skipped: int = 0) -> None:
        self._left = skipped
        self._part = b""
        self._in_block = False
        self.begun = False
        """Whether a frame was found."""

    @property
    def between(self) -> bool:
        """Whether another frame may be inserted here."""
        return self.begun and not (self._left or self._part or self._in_block)

    def feed(self, data: bytes) -> Iterator[Head]:
        """Yield the heads that are complete with these bytes."""
        at = self._left
        if self._part:
            data = self._part + data
        size = len(data)
        while at + HEAD <= size:
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + HEAD]) & 0x7FFF_FFFF
            at += HEAD + int.from_bytes(data[at : at + 3])
            self.begun = True
            if kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
                self._in_block = not flags & END_HEADERS
            yield Head(kind, flags, stream)
        self._left = max(0, at - size)
        self._part = data[at:] if at < size else b""


class Frames:
    """Reads whole frames in one direction. `preface` is what must come before them."""

    __slots__ = ("_buffer", "_preface")

    def __init__(self, preface: bytes = b"") -> None:
        self._preface = preface
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with these bytes. Raises Unfollowable."""
        data = self._buffer + data
        at = 0
        if self._preface:
            if not data.startswith(self._preface[: len(data)]):
                raise Unfollowable("it is not HTTP/2")
            if len(data) < len(self._preface):
                self._buffer = data
                return
            at, self._preface = len(self._preface), b""
        while at + HEAD <= len(data):
            size = int.from_bytes(data[at : at + 3])
            if size > MOST_BYTES:
                raise Unfollowable(f"a frame has {size:,} bytes")
            end = at + HEAD + size
            if end > len(data):
                break
            stream = int.from_bytes(data[at + 5 : at + HEAD]) & 0x7FFF_FFFF
            yield Frame(data[at + 3], data[at + 4], stream, data[at + HEAD : end])
            at = end
        self._buffer = data[at:]


def unpadded(frame: Frame) -> bytes:
    """Return the payload of DATA or HEADERS without padding and priority. Raises Unfollowable."""
    payload = frame.payload
    start, end = 0, len(payload)
    if frame.flags & PADDED:
        if not payload:
            raise Unfollowable("a frame is broken")
        start, end = 1, end - payload[0]
    if frame.kind == HEADERS and frame.flags & PRIORITY:
        start += 5
    if start > end:
        raise Unfollowable("a frame is broken")
    return payload[start:end]


def goaway() -> bytes:
    """Return a frame that asks a client to open no more streams, and lets those in flight finish (RFC
    9113, 6.8).
    """
    payload = (0x7FFF_FFFF).to_bytes(4) + bytes(4)
    return len(payload).to_bytes(3) + bytes((GOAWAY, 0)) + bytes(4) + payload
