"""A dictionary of counters, split into many small ones.

One dictionary of a million keys stops the event loop for tens of milliseconds whenever it grows, and when it
is copied. A shard grows by a few thousand keys at a time, and a copy of one moment is made shard by shard
while counters change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

SHARDS = 128
SHIFT, MASK = 24, SHARDS - 1
"""The shard of a key is `hash(key) >> SHIFT & MASK`: its dictionary uses the lower bits of the hash."""


class Shards(MutableMapping[str, int]):
    """The counters by key. The memory store uses `shards` directly on its hot path."""

    __slots__ = ("shards",)

    def __init__(self) -> None:
        self.shards: list[dict[str, int]] = [{} for _ in range(SHARDS)]

    def __getitem__(self, key: str) -> int:
        return self.shards[hash(key) >> SHIFT & MASK][key]

    def __setitem__(self, key: str, value: int) -> None:
        self.shards[hash(key) >> SHIFT & MASK][key] = value

    def __delitem__(self, key: str) -> None:
        del self.shards[hash(key) >> SHIFT & MASK][key]

    def __iter__(self) -> Iterator[str]:
        for shard in self.shards:
            yield from shard

    def __len__(self) -> int:
        return sum(map(len, self.shards))


class Copy:
    """The counters of one moment, copied by another thread while the event loop's thread continues to count.

    The event loop's thread calls `before_write` before each write; the other thread calls `finish`. If both
    copy the same shard, the copies are equal: nothing is written to a shard before its first copy is made.
    """

    def __init__(self, counters: Shards) -> None:
        self._shards = counters.shards
        self._copied: dict[int, dict[str, int]] = {}

    def before_write(self, keys: Iterable[str]) -> None:
        """Copy the shards of these keys, unless they have been copied."""
        for key in keys:
            place = hash(key) >> SHIFT & MASK
            if place not in self._copied:
                self._copied[place] = self._shards[place].copy()

    def finish(self) -> Shards:
        """Copy the other shards, and return all of them."""
        whole = Shards()
        for place, shard in enumerate(self._shards):
            copied = shard.copy()
            whole.shards[place] = self._copied.setdefault(place, copied)
        return whole
