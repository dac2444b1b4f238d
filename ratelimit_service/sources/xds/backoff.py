"""The pauses between attempts to connect, and between sets."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses in seconds. The first is `initial`; each later one is `factor` times as long, up to `most`.

    With `jitter`, each pause is a random part of that, so that replicas do not connect all at once. A factor
    of 1 or less counts as 2. The default of envoyproxy/ratelimit is 0.5, which has no effect there: its
    pauses never change.
    """

    def __init__(
        self, initial: float, most: float, factor: float, *, jitter: bool, random: Callable[[], float]
    ) -> None:
        self._initial = min(initial, most)
        self._most = most
        self._factor = factor if factor > 1 else 2.0
        self._random = random if jitter else lambda: 1.0
        self._next = self._initial

    def pause(self) -> float:
        """Return the next pause."""
        pause, self._next = self._next, min(self._next * self._factor, self._most)
        return pause * self._random()

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self._next = self._initial

    def soon(self, most: float) -> float:
        """Return the pause after a call that lasted long: at most `most` seconds."""
        return min(most, self._initial) * self._random()


class Allowance:
    """Allows `most` events at once, and another one every `every` seconds. Times are those of a monotonic
    clock.
    """

    def __init__(self, most: int, every: float) -> None:
        self._every = every
        self._burst = (most - 1) * every
        self._used_until = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until the next event is allowed."""
        return max(0.0, self._used_until - now - self._burst)

    def use(self, now: float) -> None:
        """Record an event."""
        self._used_until = max(self._used_until, now) + self._every
