"""Long answers in short slices, so that calls of gateways do not wait for them.

One answer is made at a time, for half a millisecond at once and with pauses of four times that. So the lists
for all requests to the API together take at most a fifth of the event loop, however many requests there are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..loading.slices import Pace

T = TypeVar("T")
S = TypeVar("S")

_PIECE = 65_536
"""Characters of an answer that are sent together."""


_FEW = 50
"""Items that are written at once, without waiting for a turn, so that the answer to a change does not wait
for those of readers."""


class Turns:
    """The turns of one API."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def each(self, items: Iterable[T], show: Callable[[T], S]) -> list[S]:
        """Return what `show` makes of each item."""
        found = []
        async with self._turn:
            pace = Pace()
            for item in items:
                found.append(show(item))
                if pace.over:
                    await pace.breathe()
        return found

    async def written(self, answer: Mapping[str, Any]) -> list[bytes]:
        """Return an object as JSON in pieces: each item of its lists is written by itself."""
        if sum(len(value) for value in answer.values() if isinstance(value, list)) <= _FEW:
            return [json.dumps(answer, separators=(",", ":")).encode()]
        pieces: list[bytes] = []
        texts = ["{"]
        length = 0
        async with self._turn:
            pace = Pace()
            for number, (name, value) in enumerate(answer.items()):
                texts.append(f"{',' if number else ''}{json.dumps(name)}:")
                many = isinstance(value, list)
                for place, item in enumerate(value if many else [value]):
                    text = json.dumps(item, separators=(",", ":"))
                    texts += ["[" if many and not place else "," if place else "", text]
                    length += len(text)
                    if length > _PIECE:
                        pieces.append("".join(texts).encode())
                        texts.clear()
                        length = 0
                    if pace.over:
                        await pace.breathe()
                if many:
                    texts.append("]" if value else "[]")
        texts.append("}")
        pieces.append("".join(texts).encode())
        return pieces
