"""Which refused buckets have been logged already."""

from __future__ import annotations

from heapq import heappop, heappush


class RefusalLog:
    """Says of each bucket once in its window that it is worth a line in the log.

    It remembers at most `most` buckets whose window is still running, and of each only a number, however long the key
    is. While it is full, the refusals of further buckets are counted in `unlogged` and not logged one by one: it is
    then that strangers make up buckets faster than anybody could read.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: set[tuple[int, int]] = set()
        self._ends: list[tuple[int, int]] = []
        self.unlogged = 0
        """Refusals, since the start, that found no room."""

    def note(self, bucket_key: str, window_end: int, name: str, now: int) -> bool:
        """Whether to log that this bucket is refused until `window_end`: true once, while `now` is before that.

        `name` tells several limits of one bucket apart whose windows end together. Times are unix seconds.
        """
        while self._ends and self._ends[0][0] <= now:
            self._known.discard(heappop(self._ends))
        # Two buckets with one hash would cost a line in the log; keeping the keys would cost memory without a bound.
        mark = (window_end, hash((bucket_key, name)))
        if mark in self._known or window_end <= now:
            return False
        if len(self._known) >= self._most:
            self.unlogged += 1
            return False
        self._known.add(mark)
        heappush(self._ends, mark)
        return True
