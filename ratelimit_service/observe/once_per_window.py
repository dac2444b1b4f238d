"""Remembers which buckets were reported in their current window."""

from __future__ import annotations

from heapq import heappop, heappush

_FORGOTTEN_AT_ONCE = 100
"""Ended windows that one call drops: on the hour, those of all teams end."""


_STEP = 60
"""If the clock goes back by more than these seconds, it was wrong, and everything is dropped."""


class OncePerWindow:
    """Returns for each bucket and window whether a report is the first one.

    It remembers at most `most` buckets with a running window, each by a number instead of its key. While it
    is full, further buckets are only counted, in `overflowed`: strangers make up buckets faster than anyone
    can read.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: set[tuple[int, int]] = set()
        self._ends: list[tuple[int, int]] = []
        self._latest = 0
        self.overflowed = 0
        """Reports without room for their bucket, since the start."""

    def note(self, bucket_key: str, window_end: int, name: str, now: int) -> bool:
        """Return whether to report this bucket: True once until `window_end`.

        `name` distinguishes reports about a bucket whose windows end together. Times are Unix seconds.
        """
        if now < self._latest - _STEP:  # marks of future windows would take all the room until then
            self._known, self._ends = set(), []
            self._latest = now
        elif now > self._latest:
            self._latest = now
        for _ in range(_FORGOTTEN_AT_ONCE):
            if not self._ends or self._ends[0][0] > now:
                break
            self._known.discard(heappop(self._ends))
        # Two buckets with the same hash cost a log line; keys would cost memory without a bound.
        mark = (window_end, hash((bucket_key, name)))
        if mark in self._known or window_end <= now:
            return False
        if len(self._known) >= self._most:
            self.overflowed += 1
            return False
        self._known.add(mark)
        heappush(self._ends, mark)
        return True
