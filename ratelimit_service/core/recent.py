"""Remembering what was used of late, and no more than so much of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A dictionary of the `most` entries that were used last, and of at most as many again from before them.

    Whoever floods it with new keys drives out what is not used, and nothing that is.
    """

    __slots__ = ("_before", "_most", "_now")

    def __init__(self, most: int) -> None:
        self._most = most
        self._now: dict[Key, Value] = {}
        self._before: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._now) + len(self._before)

    def get(self, key: Key) -> Value | None:
        """What is remembered for `key`; None where that is nothing."""
        value = self._now.get(key)
        if value is None and self._before:
            value = self._before.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def values(self) -> Iterator[Value]:
        """All that is remembered, each once."""
        yield from self._now.values()
        yield from self._before.values()

    def put(self, key: Key, value: Value) -> None:
        """Remember `value`."""
        if len(self._now) >= self._most:
            self._before, self._now = self._now, {}
        self._now[key] = value
