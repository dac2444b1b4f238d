"""What can be wrong with a Redis that answers: it evicts, keeps nothing on disk, is too old, or has another time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import redis.asyncio as aioredis
import structlog
from redis.exceptions import RedisError, ResponseError

from ...ports import Clock

EVERY = 60.0
"""Seconds between two looks, once there was a first; until then, a second and then twice as long each time."""

LARGEST_OFFSET = 1.0
"""Seconds that a server's clock may be off before it is said."""

_MARKER_TTL = 86_400

_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}


class Watched(Protocol):
    """A store in Redis."""

    def servers(self) -> Mapping[str, aioredis.Redis]:
        """A client of each server that counts, by its address."""
        ...

    def register_on(self, server: str, lane: str) -> str:
        """The key of a lane's register that the server with this address has."""
        ...


class Finding(NamedTuple):
    """Something to say about a server: `level` is the one of the log; an empty `message` is that all is well."""

    topic: str
    level: str
    message: str = ""
    details: Mapping[str, object] = {}


class RedisWatch:
    """Looks at the servers of the stores that it was told of, and says what has changed since it last looked.

    `long_windows` tells whether a rule counts for a day or longer.
    """

    def __init__(self, clock: Clock, long_windows: Callable[[], bool]) -> None:
        self._clock = clock
        self._long_windows = long_windows
        self._stores: list[tuple[Watched, bool]] = []
        self._said: dict[tuple[str, str], str] = {}
        self._offsets: dict[str, float] = {}
        self._runs: dict[str, str] = {}
        self._lane = f"watch-{uuid.uuid4().hex[:12]}"
        self._markers: dict[str, str] = {}
        """A key of ours on each server with an append-only file: it is gone where the file is."""
        self._log = structlog.get_logger("ratelimit_service.store")

    def add(self, store: Watched, *, keeps_days: bool = True) -> None:
        """Watch this one, too. `keeps_days` is whether windows of a day or longer are counted there."""
        self._stores.append((store, keeps_days))

    @property
    def clock_offset(self) -> float:
        """Seconds by which the clock of a server is ahead of ours, of the one that is off the most."""
        return max(self._offsets.values(), key=abs, default=0.0)

    async def run(self) -> None:
        """Look again and again."""
        pause = 1.0
        while True:
            reached = await self.look()
            await asyncio.sleep(EVERY if reached else pause)
            # Some proxies close a connection that asks for INFO: those need not be asked every second.
            pause = 1.0 if reached else min(2 * pause, EVERY)

    async def look(self) -> bool:
        """Look once at every server; whether there was one of each store that could be looked at."""
        offsets, self._offsets = self._offsets, {}
        return all([await self._look_at(store, keeps_days, offsets) for store, keeps_days in self._stores])

    async def _look_at(self, store: Watched, keeps_days: bool, offsets: Mapping[str, float]) -> bool:
        reached = False
        for name, client in store.servers().items():
            if name in offsets:
                self._offsets[name] = offsets[name]
            try:
                for finding in await self._findings(name, client, store if keeps_days else None):
                    self._say(name, finding)
                reached = True
            except (RedisError, OSError) as error:
                self._log.debug("Redis could not be looked at", server=name, error=str(error))
        return reached

    def _say(self, server: str, finding: Finding) -> None:
        topic, level, message, details = finding
        before = self._said.get((server, topic), "")
        self._said[server, topic] = message
        if message != before:
            text = message or f"Redis is well again: {topic}"
            getattr(self._log, level if message else "info")(text, server=server, **details)

    async def _findings(self, name: str, client: aioredis.Redis, store: Watched | None) -> list[Finding]:
        """What there is to say; about what is kept, where `store` is given."""
        clock = await self._clock_of(name, client)
        try:
            info = await client.info()
        except ResponseError as error:
            message = "Redis does not tell its version, nor whether it evicts (INFO)"
            return [clock, Finding("INFO", "info", message, {"error": str(error)})]
        found = [clock, version(info), eviction(info)]
        if store is not None:
            marker = store.register_on(name, self._lane) if info.get("aof_enabled") else ""
            emptied = await self._emptied(name, info, client, marker)
            found += [emptied, await self._persistence(info, client)]
        return found

    async def _emptied(
        self, name: str, info: Mapping[str, Any], client: aioredis.Redis, marker: str
    ) -> Finding:
        """Whether the server was started again since the last look, and found nothing on its disk."""
        run = str(info.get("run_id", ""))
        before, self._runs[name] = self._runs.get(name, run), run
        left = self._markers.pop(name, "")
        well = run == before
        if not well and left and info.get("aof_enabled"):
            well = await self._is_there(client, left)
        elif not well:
            # Redis 6.2 does not tell what it has loaded: then what counts is whether it has something now. Of an append-only
            # file, none tells how many keys were in it.
            well = bool(info.get("aof_enabled") or info.get("rdb_last_load_keys_loaded", "db0" in info))
        if marker:
            with suppress(ResponseError):  # it is full, or read-only: then there is no telling
                await client.set(marker, "1", ex=_MARKER_TTL)
                self._markers[name] = marker
        if well:
            return Finding("what was used", "error")
        return Finding(
            "what was used",
            "error",
            "Redis was started again and came back empty: what was used before is forgotten, and limits begin anew",
        )

    async def _is_there(self, client: aioredis.Redis, key: str) -> bool:
        try:
            return await client.get(key) is not None
        except ResponseError:  # its slot is on another server by now
            return True

    async def _clock_of(self, name: str, client: aioredis.Redis) -> Finding:
        try:
            # Connecting may be a part of the first time; the quicker of the two is the truer one.
            _, offset = min([await self._time_of(client) for _ in range(2)])
        except ResponseError as error:
            return Finding("clock", "info", "Redis does not tell the time (TIME)", {"error": str(error)})
        self._offsets[name] = offset
        return clock(offset)

    async def _time_of(self, client: aioredis.Redis) -> tuple[float, float]:
        """How long it took to ask for the time, and how far that is ahead of ours."""
        before = self._clock()
        seconds, microseconds = await client.time()
        after = self._clock()
        # Envoy's redis_proxy has all microseconds since 1970 in the second field.
        return after - before, seconds + microseconds % 1_000_000 / 1e6 - (before + after) / 2

    async def _persistence(self, info: Mapping[str, Any], client: aioredis.Redis) -> Finding:
        if info.get("aof_enabled") or not self._long_windows():
            return Finding("persistence", "warning")
        try:
            saves = (await client.config_get("save")).get("save", "")
        except ResponseError as error:
            message = "Redis has no append-only file, and does not tell whether it saves (CONFIG GET)"
            return Finding("persistence", "info", message, {"error": str(error)})
        if saves:
            return Finding("persistence", "warning")
        return Finding(
            "persistence",
            "warning",
            "Redis keeps nothing on disk, and rules count for a day or longer: what was used is forgotten when it "
            "starts again; set appendonly yes, or save",
        )


def version(info: Mapping[str, Any]) -> Finding:
    """Whether the server is too old."""
    product = "Valkey" if "valkey_version" in info else "Redis"
    number = str(info.get("valkey_version") or info.get("redis_version", ""))
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdecimal())
    if not parts or parts >= _OLDEST[product]:
        return Finding("version", "error")
    oldest = ".".join(map(str, _OLDEST[product]))
    return Finding("version", "error", f"{product} {number} is too old: {oldest} or newer is needed")


def eviction(info: Mapping[str, Any]) -> Finding:
    """Whether counters may be thrown away to make room."""
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction" or not info.get("maxmemory"):
        return Finding("eviction", "warning")
    return Finding(
        "eviction",
        "warning",
        "Redis throws counters away where memory runs short, and limits begin anew: set maxmemory-policy noeviction",
        {"policy": policy},
    )


def clock(offset: float) -> Finding:
    """Whether the clock of a server is off by too much: seconds that it is ahead of ours."""
    if abs(offset) <= LARGEST_OFFSET:
        return Finding("clock", "warning")
    message = "the clock of Redis is not ours: windows begin by ours, which is NTP's to keep right"
    return Finding("clock", "warning", message, {"ahead": f"{offset:.1f}s"})
