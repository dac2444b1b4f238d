"""The register of replicas in Redis: one hash, beside the amendments and with their hash tag.

    {amendments}:replicas
        replica <id>            <seconds since 1970 by Redis' clock> <generation> <digest> <standing as JSON>
        generation <digest>     <number> <seconds since 1970 when it began>
        generation              the number of the last one

One script writes the line of a replica, finds the generation of its rules, drops old lines, and returns the
others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from ...core.errors import StoreError
from ...ports import InForce, Replica
from ..replicas import GONE_AFTER, MOST_GENERATIONS, with_lag
from .background_scripts import Evaluation, Run, Script, decoded, script

_KEPT = 30 * 86_400
"""Seconds after which the register of a service that no longer runs expires."""

MEET = script(b"""
local key = KEYS[1]
local now = tonumber(redis.call('TIME')[1])
local replica, rules = 'replica ' .. ARGV[1], 'generation ' .. ARGV[2]
local generation = 0
if ARGV[2] ~= '' then
    local before = tonumber(string.match(redis.call('HGET', key, replica) or '', '^%d+ (%d+)') or '0')
    generation = tonumber(string.match(redis.call('HGET', key, rules) or '', '^(%d+)') or '0')
    if generation == 0 or generation < before then
        generation = redis.call('HINCRBY', key, 'generation', 1)
        redis.call('HSET', key, rules, generation .. ' ' .. now)
    end
end
redis.call('HSET', key, replica, now .. ' ' .. generation .. ' ' .. ARGV[3])
redis.call('EXPIRE', key, ARGV[6])
local all, kept = redis.call('HGETALL', key), {}
local last = tonumber(redis.call('HGET', key, 'generation') or '0')
for at = 1, #all, 2 do
    local number = tonumber(string.match(all[at + 1], '^(%d+)') or '0')
    local old = string.sub(all[at], 1, 8) == 'replica ' and number < now - ARGV[4]
    if old or (string.sub(all[at], 1, 11) == 'generation ' and number <= last - ARGV[5]) then
        redis.call('HDEL', key, all[at])
    else
        kept[#kept + 1] = all[at]
        kept[#kept + 1] = all[at + 1]
    end
end
return {now, kept}
""")

LEAVE = script(b"return redis.call('HDEL', KEYS[1], ARGV[1])")


class RedisReplicas:
    """A ReplicaStore (ports.py) in a Redis that `run` reaches."""

    def __init__(self, run: Run, on_error: Callable[[Exception], StoreError], prefix: str = "") -> None:
        self._run = run
        self._on_error = on_error
        self._key = f"{prefix}{{amendments}}:replicas"

    async def meet(self, name: str, standing: InForce) -> Sequence[Replica]:
        """Register what a replica has in force, and return all (ports.ReplicaStore.meet)."""
        digest = standing.digest
        said = json.dumps([standing.digest, standing.amendments, standing.release])
        arguments = (name, digest, said, GONE_AFTER, MOST_GENERATIONS, _KEPT)
        now, pairs = await self._call(MEET, arguments)
        found = {decoded(field): decoded(value) for field, value in zip(pairs[::2], pairs[1::2], strict=True)}
        begun: dict[int, float] = {}
        replicas = []
        for field, value in found.items():
            kind, _, one = field.partition(" ")
            try:
                if kind == "generation" and one:
                    number, at = value.split()
                    begun[int(number)] = float(at)
                elif kind == "replica":
                    seen, number, line = value.split(" ", 2)
                    rules, amendments, release = json.loads(line)
                    stands = InForce(str(rules), int(amendments), str(release))
                    replicas.append(Replica(one, stands, int(number), max(0.0, now - float(seen))))
            except (ValueError, TypeError):  # of another version of the service, or written by hand
                continue
        return with_lag(replicas, begun, float(now))

    async def leave(self, name: str) -> None:
        """Remove a replica."""
        await self._call(LEAVE, (f"replica {name}",))

    async def _call(self, what: Script, arguments: Sequence[str | int]) -> Any:
        try:
            return await self._run(Evaluation(what, (self._key,), arguments))
        except (RedisError, OSError) as error:
            raise self._on_error(error) from None
