"""What has been told already of the windows that are running."""

from __future__ import annotations

from heapq import heappop, heappush

_FORGOTTEN_AT_ONCE = 100
"""Buckets whose windows are over that one call forgets: at the full hour, those of all teams are."""


_STEP = 60
"""Seconds that the clock goes back after which everything is forgotten: it was wrong, and has been put right."""


class OncePerWindow:
    """Says of each bucket once in its window that it is worth telling of.

    It remembers at most `most` buckets whose window is still running, and of each only a number, however long the key
    is. While it is full, further buckets are counted in `untold` and not told of one by one: it is then that strangers
    make up buckets faster than anybody could read.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: set[tuple[int, int]] = set()
        self._ends: list[tuple[int, int]] = []
        self._latest = 0
        self.untold = 0
        """How often, since the start, a bucket found no room."""

    def note(self, bucket_key: str, window_end: int, name: str, now: int) -> bool:
        """Whether to tell of this bucket, whose window ends at `window_end`: true once, while `now` is before that.

        `name` tells several things about one bucket apart whose windows end together. Times are unix seconds.
        """
        if (
            now < self._latest - _STEP
        ):  # windows of a time that is yet to come would have all the room until then
            self._known, self._ends = set(), []
            self._latest = now
        elif now > self._latest:
            self._latest = now
        for _ in range(_FORGOTTEN_AT_ONCE):
            if not self._ends or self._ends[0][0] > now:
                break
            self._known.discard(heappop(self._ends))
        # Two buckets with one hash would cost a line in the log; keeping the keys would cost memory without a bound.
        mark = (window_end, hash((bucket_key, name)))
        if mark in self._known or window_end <= now:
            return False
        if len(self._known) >= self._most:
            self.untold += 1
            return False
        self._known.add(mark)
        heappush(self._ends, mark)
        return True
