"""HTTP/2 frames written by hand, for input that no client library sends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import NamedTuple, Self

import hpack

from ratelimit_service.transports.grpc_method import PATH

MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4
NO_ERROR, PROTOCOL_ERROR, FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 0, 1, 6, 11

Header = tuple[bytes, bytes]

CALL: tuple[Header, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH.encode()),
    (b":authority", b"limiter"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """Return SETTINGS with `initial_window_size`, or without any."""
    size = values.get("initial_window_size")
    payload = b"" if size is None else INITIAL_WINDOW_SIZE.to_bytes(2, "big") + size.to_bytes(4, "big")
    return frame(SETTINGS, 0, 0, payload)


def block(headers: Iterable[Header]) -> bytes:
    """Return headers in HPACK as literals that are not indexed."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def remembered(headers: Iterable[Header]) -> bytes:
    """Return headers in HPACK as literals that are added to the table."""
    return b"".join(b"\x40" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, size = len(text) - 127, b"\x7f"
    while rest > 127:
        size += bytes((0x80 | rest & 0x7F,))
        rest >>= 7
    return size + bytes((rest,)) + text


def replaced(**values: bytes) -> tuple[Header, ...]:
    """Return the headers of a CALL with other values for `path`, `method` or `content_type`."""
    other = {name.replace("_", "-").encode(): value for name, value in values.items()}
    return tuple((name, other.get(name.lstrip(b":"), value)) for name, value in CALL)


def message(body: bytes, compressed: int = 0) -> bytes:
    """Return a message with gRPC's prefix."""
    return bytes((compressed,)) + len(body).to_bytes(4, "big") + body


def call(stream: int, body: bytes, headers: Iterable[Header] = CALL) -> bytes:
    """Return the frames of a whole call."""
    return frame(HEADERS, END_HEADERS, stream, block(headers)) + frame(
        DATA, END_STREAM, stream, message(body)
    )


class Frame(NamedTuple):
    """A received frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Answer(NamedTuple):
    """The headers and trailers of an answer together, and its message with the prefix."""

    headers: dict[str, str]
    body: bytearray

    @property
    def status(self) -> int:
        """Return the gRPC status."""
        return int(self.headers["grpc-status"])


class Peer:
    """A connection that sends the given bytes and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = hpack.Decoder()

    @classmethod
    async def connect(
        cls, address: str, hello: bytes = MAGIC + settings(), tls: ssl.SSLContext | None = None
    ) -> Self:
        """Open a connection to host:port, and send `hello` on it."""
        host, _, port = address.rpartition(":")
        peer = cls(*await asyncio.open_connection(host, int(port), ssl=tls))
        peer.send(hello)
        return peer

    def send(self, data: bytes) -> None:
        """Queue bytes to be sent."""
        self._writer.write(data)

    async def frame(self) -> Frame:
        """Return the next frame. Raises EOFError or ConnectionError if the connection is closed."""
        head = await self._reader.readexactly(9)
        size = int.from_bytes(head[:3], "big")
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), await self._reader.readexactly(size))

    async def until(self, kind: int, stream: int | None = None) -> Frame:
        """Return the next frame of a kind."""
        async with asyncio.timeout(60):
            while True:
                found = await self.frame()
                if found.kind == kind and stream in (None, found.stream):
                    return found

    async def answer(self, stream: int) -> Answer:
        """Return the answer on a stream, read to its end."""
        return (await self.answers({stream}))[stream]

    async def answers(self, streams: set[int]) -> dict[int, Answer]:
        """Return the answers on several streams, in whatever order they arrive."""
        answers: dict[int, Answer] = {}
        waiting = set(streams)
        async with asyncio.timeout(60):
            while waiting:
                found = await self.frame()
                answer = answers.setdefault(found.stream, Answer({}, bytearray()))
                if found.kind == HEADERS:
                    decoded = self._decoder.decode(found.payload)
                    answer.headers.update((str(name), str(value)) for name, value in decoded)
                elif found.kind == DATA:
                    answer.body.extend(found.payload)
                elif found.kind == RST_STREAM and found.stream in waiting:
                    raise ConnectionError(f"{found.stream} is reset: {int.from_bytes(found.payload, 'big')}")
                if found.kind in (HEADERS, DATA) and found.flags & END_STREAM:
                    waiting.discard(found.stream)
        return answers

    async def rest(self) -> list[Frame]:
        """Return all frames until the connection is closed."""
        frames = []
        async with asyncio.timeout(60):
            while True:
                try:
                    frames.append(await self.frame())
                except (EOFError, ConnectionError):
                    return frames

    async def rest_or_answer(self, stream: int) -> list[Frame]:
        """Return all frames until a stream is answered or the connection is closed."""
        frames: list[Frame] = []
        async with asyncio.timeout(60):
            while not frames or frames[-1].stream != stream or not frames[-1].flags & END_STREAM:
                try:
                    frames.append(await self.frame())
                except (EOFError, ConnectionError):
                    break
        return frames

    async def read(self) -> bytes:
        """Return some received bytes."""
        async with asyncio.timeout(60):
            return await self._reader.read(1_024)

    def reset(self) -> None:
        """Close the connection with a reset."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
