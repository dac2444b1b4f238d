"""Long pages: made by a thread, a chunk at a time, and sent as they are made.

Seventy thousand rules take half a second to write down. In one go on the event loop, every call would wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice

from .messages import TEXT, Response, text

MOST_AT_ONCE = 16
"""Pages that are being sent; one more is answered 503. A peer that reads slowly holds what its page is made from."""

_LINES = 1_000
"""Lines of a chunk."""


class Pages:
    """Makes the pages of one port."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._most = most
        self._under_way = 0
        self._turn = asyncio.Lock()

    def page(self, chunks: Iterable[bytes], content_type: str = TEXT) -> Response:
        """A page of these chunks. The iterable is gone through in other threads, never in two at once."""
        if self._under_way >= self._most:
            return text(f"Service Unavailable: {self._most} pages are being sent already", 503)
        return Response(self._sent(iter(chunks)), content_type=content_type)

    def lines(self, lines: Iterable[str]) -> Response:
        """A page of these lines, each without its end."""
        return self.page(_chunks(iter(lines)))

    async def _sent(self, chunks: Iterator[bytes]) -> AsyncGenerator[bytes]:
        self._under_way += 1
        try:
            while (chunk := await self._next(chunks)) is not None:
                yield chunk
        finally:
            self._under_way -= 1

    async def _next(self, chunks: Iterator[bytes]) -> bytes | None:
        # Each thread that runs beside the event loop's makes it wait half a millisecond for its turn: one is enough.
        async with self._turn:
            return await asyncio.to_thread(next, chunks, None)


def _chunks(lines: Iterator[str]) -> Iterator[bytes]:
    some = list(islice(lines, _LINES))
    yield "".join([f"{line}\n" for line in some]).encode() if some else b"\n"
    while some := list(islice(lines, _LINES)):
        yield "".join([f"{line}\n" for line in some]).encode()
