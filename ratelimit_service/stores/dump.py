"""All counters of the memory store at one moment, for a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .shards import Copy, Shards


class Counter(NamedTuple):
    """One counter: its value, and the second of the store's clock at which it expires."""

    key: str
    value: int
    expiry: int


class Dump(Copy):
    """All counters of one moment, read by another thread while the loop's thread adds and sweeps some."""

    def __init__(self, counters: Shards) -> None:
        super().__init__(counters)
        self.began: set[tuple[str, int]] = set()
        """The counters created after the moment, by key and end: a swept key may be created again."""
        self._swept: dict[int, list[str]] = {}
        self._read: set[int] = set()

    def before_sweep(self, keys: Sequence[str], end: int) -> None:
        """Keep the keys of counters that are about to be swept, unless their end has been read."""
        self.before_write(keys)
        if end not in self._read:
            self._swept.setdefault(end, []).extend(keys)

    def counters(self, ending: Mapping[int, Sequence[str]]) -> Iterator[Counter]:
        """Yield the counters of the moment.

        `ending` has the keys by the second at which they expire, and changes meanwhile.
        """
        values = self.finish()
        ends = list(ending)
        while ends:
            for end in ends:
                # The order matters: a key that is swept after this copy is in the copy, an earlier one in
                # `_swept`.
                keys = dict.fromkeys(ending.get(end, ()))
                self._read.add(end)
                keys.update(dict.fromkeys(self._swept.pop(end, ())))
                for key in keys:
                    value = values.get(key)
                    if value is not None and (key, end) not in self.began:
                        yield Counter(key, value, end)
            ends = list(self._swept)
        for shard in values.shards:  # together, they would be released in one call of many milliseconds
            shard.clear()
