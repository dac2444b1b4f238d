"""Long pages, made chunk by chunk in a thread and sent meanwhile.

Formatting seventy thousand rules takes half a second, for which every call would wait on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice

from .messages import TEXT, Response, text

MOST_AT_ONCE = 16
"""Pages in flight; one more is answered 503. A peer that reads slowly keeps the data of its page in memory.
"""

_LINES = 1_000
"""Lines in a chunk."""


class StreamedPages:
    """The pages of one port."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._most = most
        self._under_way = 0
        self._turn = asyncio.Lock()

    def page(self, chunks: Iterable[bytes], content_type: str = TEXT) -> Response:
        """Return a page of these chunks. Threads iterate over them, one at a time."""
        if self._under_way >= self._most:
            return text(f"Service Unavailable: {self._most} pages are being sent already", 503)
        return Response(self._sent(iter(chunks)), content_type=content_type)

    def lines(self, lines: Iterable[str]) -> Response:
        """Return a page of these lines, given without line ends."""
        return self.page(_chunks(iter(lines)))

    async def _sent(self, chunks: Iterator[bytes]) -> AsyncGenerator[bytes]:
        self._under_way += 1
        try:
            while (chunk := await self._next(chunks)) is not None:
                yield chunk
        finally:
            self._under_way -= 1

    async def _next(self, chunks: Iterator[bytes]) -> bytes | None:
        # A thread that runs takes the GIL from the event loop for a tenth of a millisecond at a time: one is
        # enough.
        async with self._turn:
            return await asyncio.to_thread(next, chunks, None)


def _chunks(lines: Iterator[str]) -> Iterator[bytes]:
    some = list(islice(lines, _LINES))
    yield "".join([f"{line}\n" for line in some]).encode() if some else b"\n"
    while some := list(islice(lines, _LINES)):
        yield "".join([f"{line}\n" for line in some]).encode()
