"""The rate limit of the API itself."""

from __future__ import annotations

import math

from ..ports import Clock


class Throttle:
    """Lets `rate` requests a second through, and `burst` at once."""

    def __init__(self, rate: float, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def take(self) -> int:
        """Take one request. Return 0, or the whole seconds after which a retry succeeds."""
        now = self._clock()
        self._left = min(self._burst, self._left + max(now - self._at, 0) * self._rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0
        return max(1, math.ceil((1 - self._left) / self._rate))
