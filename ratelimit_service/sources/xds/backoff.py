"""How long to wait before the next attempt to connect."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses in seconds: `initial`, and each `factor` times as long as the one before, to `most`.

    With `jitter`, each is a random part of that, so that replicas do not come back together. A factor of 1 and below is read
    as 2: envoyproxy/ratelimit's default of 0.5 would have pauses shrink, and there they do not change at all.
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
        """The next pause."""
        pause, self._next = self._next, min(self._next * self._factor, self._most)
        return pause * self._random()

    def reset(self) -> None:
        """Begin anew: something went well."""
        self._next = self._initial

    def soon(self, most: float) -> float:
        """A pause before an attempt that follows something that went well."""
        return min(most, self._initial) * self._random()
