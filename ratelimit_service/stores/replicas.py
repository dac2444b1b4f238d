"""The register of replicas in memory, which has one replica, and its common part with the register in
Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ports import Clock, InForce, Replica

GONE_AFTER = 10
"""Seconds after its last report until a replica is removed."""

MOST_GENERATIONS = 100
"""Generations that are remembered."""


def with_lag(replicas: Sequence[Replica], begun: Mapping[int, float], now: float) -> list[Replica]:
    """Return replicas with `behind`: the seconds since when another one has had a later generation.

    `begun` has the time at which each generation began.
    """
    there = {each.generation for each in replicas}
    found = []
    for each in replicas:
        later = [begun[number] for number in there if number > each.generation and number in begun]
        found.append(each._replace(behind=max(0.0, now - min(later)) if each.generation and later else 0.0))
    return found


class MemoryReplicas:
    """A ReplicaStore (ports.py) in this process. `clock` has seconds that go forward only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self._generations: dict[str, tuple[int, float]] = {}
        self._replicas: dict[str, tuple[InForce, int, float]] = {}

    async def meet(self, name: str, standing: InForce) -> Sequence[Replica]:
        """Register what a replica has in force, and return all (ports.ReplicaStore.meet)."""
        now = self._clock()
        _, before, _ = self._replicas.get(name, (standing, 0, now))
        self._replicas[name] = standing, self._generation(standing.digest, before, now), now
        for each, (_, _, seen) in list(self._replicas.items()):
            if now - seen > GONE_AFTER:
                del self._replicas[each]
        replicas = [
            Replica(each, stands, generation, now - seen)
            for each, (stands, generation, seen) in self._replicas.items()
        ]
        return with_lag(replicas, dict(self._generations.values()), now)

    async def leave(self, name: str) -> None:
        """Remove a replica."""
        self._replicas.pop(name, None)

    def _generation(self, digest: str, before: int, now: float) -> int:
        if not digest:
            return 0
        generation = self._generations.get(digest, (0, 0.0))[0]
        if not generation or generation < before:
            self._last = generation = self._last + 1
            self._generations[digest] = generation, now
            for each, (number, _) in list(self._generations.items()):
                if number <= generation - MOST_GENERATIONS:
                    del self._generations[each]
        return generation
