"""A dictionary of counters in many small ones.

A single dictionary of a million keys stops the event loop for tens of milliseconds whenever it grows, and when it is copied.
In shards, it grows a few thousand keys at a time, and a copy as of one moment is made shard by shard while it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

SHARDS = 128
SHIFT, MASK = 24, SHARDS - 1
"""The shard of a key is `hash(key) >> SHIFT & MASK`: a dictionary places its keys by the lower bits of the hash."""


class Shards(MutableMapping[str, int]):
    """The counters by key. `parts` are the shards; the hot path of the memory store uses them directly."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[dict[str, int]] = [{} for _ in range(SHARDS)]

    def __getitem__(self, key: str) -> int:
        return self.parts[hash(key) >> SHIFT & MASK][key]

    def __setitem__(self, key: str, value: int) -> None:
        self.parts[hash(key) >> SHIFT & MASK][key] = value

    def __delitem__(self, key: str) -> None:
        del self.parts[hash(key) >> SHIFT & MASK][key]

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts))


class Copy:
    """The counters of one moment, copied by another thread while the event loop's thread goes on counting.

    The loop's thread calls `before_write` ahead of each write; the other one calls `finish`. Both copies of a shard that the
    two may make are equal: nothing was written before the first of them.
    """

    def __init__(self, counters: Shards) -> None:
        self._parts = counters.parts
        self._copied: dict[int, dict[str, int]] = {}

    def before_write(self, keys: Iterable[str]) -> None:
        """Copy the shards of these keys, unless they have been copied."""
        for key in keys:
            place = hash(key) >> SHIFT & MASK
            if place not in self._copied:
                self._copied[place] = self._parts[place].copy()

    def finish(self) -> Shards:
        """Copy the other shards, and return all of them."""
        whole = Shards()
        for place, part in enumerate(self._parts):
            copied = part.copy()
            whole.parts[place] = self._copied.setdefault(place, copied)
        return whole
