"""Warns of a Redis that evicts counters, has no persistence, is too old, or whose clock is wrong."""

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
"""Seconds between two checks. Until the first one succeeds, the pauses begin at a second and double."""

LARGEST_OFFSET = 1.0
"""Seconds that a server's clock may differ from that of this machine without a warning."""

_MARKER_TTL = 86_400

_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}


class WatchedStore(Protocol):
    """A store in Redis."""

    def servers(self) -> Mapping[str, aioredis.Redis]:
        """Return a client of each server with counters, by its address."""
        ...

    def register_on(self, server: str, lane: str) -> str:
        """Return the key of a lane's register that is on the server with this address."""
        ...


class Finding(NamedTuple):
    """The result of one check of a server.

    An empty `message` means that all is well; else it is logged at `level`.
    """

    topic: str
    level: str
    message: str = ""
    details: Mapping[str, object] = {}


class RedisWatchdog:
    """Checks the servers of stores regularly, and logs a finding when it changes.

    `long_windows` returns whether any rule has a window of a day or longer.
    """

    def __init__(self, clock: Clock, long_windows: Callable[[], bool]) -> None:
        self._clock = clock
        self._long_windows = long_windows
        self._stores: list[tuple[WatchedStore, bool]] = []
        self._logged: dict[tuple[str, str], str] = {}
        self._offsets: dict[str, float] = {}
        self._runs: dict[str, str] = {}
        self._lane = f"watch-{uuid.uuid4().hex[:12]}"
        self._markers: dict[str, str] = {}
        """A key on each server with an append-only file; it is lost if the file is."""
        self._log = structlog.get_logger("ratelimit_service.store")

    def add(self, store: WatchedStore, *, keeps_days: bool = True) -> None:
        """Also watch a store; `keeps_days` if windows of a day or longer are counted in it."""
        self._stores.append((store, keeps_days))

    @property
    def clock_offset(self) -> float:
        """The seconds that Redis' clock is ahead of this machine's; of several servers, the largest
        difference.
        """
        return max(self._offsets.values(), key=abs, default=0.0)

    async def run(self) -> None:
        """Check all servers regularly, without end."""
        pause = 1.0
        while True:
            reached = await self.check()
            await asyncio.sleep(EVERY if reached else pause)
            # Some proxies close a connection that asks for INFO, so do not ask them every second.
            pause = 1.0 if reached else min(2 * pause, EVERY)

    async def check(self) -> bool:
        """Check every server once; return whether at least one server of each store could be reached."""
        offsets, self._offsets = self._offsets, {}
        return all([await self._check(store, keeps_days, offsets) for store, keeps_days in self._stores])

    async def _check(self, store: WatchedStore, keeps_days: bool, offsets: Mapping[str, float]) -> bool:
        reached = False
        for name, client in store.servers().items():
            if name in offsets:
                self._offsets[name] = offsets[name]
            try:
                for finding in await self._findings(name, client, store if keeps_days else None):
                    self._report(name, finding)
                reached = True
            except (RedisError, OSError) as error:
                self._log.debug("Redis could not be checked", server=name, error=str(error))
        return reached

    def _report(self, server: str, finding: Finding) -> None:
        """Log a finding if its message has changed."""
        subject = server, finding.topic
        before = self._logged.get(subject, "")
        self._logged[subject] = finding.message
        if finding.message != before:
            text = finding.message or f"Redis is well again: {finding.topic}"
            level = finding.level if finding.message else "info"
            getattr(self._log, level)(text, server=server, **finding.details)

    async def _findings(self, name: str, client: aioredis.Redis, store: WatchedStore | None) -> list[Finding]:
        """Check one server; if `store` is given, also its persistence."""
        clock = await self._clock_of(name, client)
        try:
            info = await client.info()
        except ResponseError as error:
            message = "Redis does not report its version, nor whether it evicts (INFO)"
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
        """Check whether the server has restarted since the last check without its data."""
        run = str(info.get("run_id", ""))
        before, self._runs[name] = self._runs.get(name, run), run
        left = self._markers.pop(name, "")
        well = run == before
        if not well and left and info.get("aof_enabled"):
            well = await self._is_there(client, left)
        elif not well:
            # Redis 6.2 does not report how much it has loaded, so any key is taken as a sign of data. No
            # version reports how many keys were in an append-only file.
            well = bool(info.get("aof_enabled") or info.get("rdb_last_load_keys_loaded", "db0" in info))
        if marker:
            with suppress(ResponseError):  # no marker if the server is full or read-only
                await client.set(marker, "1", ex=_MARKER_TTL)
                self._markers[name] = marker
        if well:
            return Finding("what was used", "error")
        return Finding(
            "what was used",
            "error",
            "Redis was restarted and came back empty: its counters are lost, and all limits begin anew",
        )

    async def _is_there(self, client: aioredis.Redis, key: str) -> bool:
        try:
            return await client.get(key) is not None
        except ResponseError:  # the slot of the key is on another server by now
            return True

    async def _clock_of(self, name: str, client: aioredis.Redis) -> Finding:
        try:
            # The first reading may include connecting. The quicker of two readings is the more accurate one.
            _, offset = min([await self._time_of(client) for _ in range(2)])
        except ResponseError as error:
            return Finding("clock", "info", "Redis does not report its time (TIME)", {"error": str(error)})
        self._offsets[name] = offset
        return clock(offset)

    async def _time_of(self, client: aioredis.Redis) -> tuple[float, float]:
        """Return the seconds that reading a server's time took, and how far it is ahead of this machine's."""
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
            message = "Redis has no append-only file, and does not report whether it saves (CONFIG GET)"
            return Finding("persistence", "info", message, {"error": str(error)})
        if saves:
            return Finding("persistence", "warning")
        return Finding(
            "persistence",
            "warning",
            "Redis keeps nothing on disk, and some windows last a day or longer: a restart loses them; "
            "set appendonly yes, or save",
        )


def version(info: Mapping[str, Any]) -> Finding:
    """Check that the server is not too old."""
    product = "Valkey" if "valkey_version" in info else "Redis"
    number = str(info.get("valkey_version") or info.get("redis_version", ""))
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdecimal())
    if not parts or parts >= _OLDEST[product]:
        return Finding("version", "error")
    oldest = ".".join(map(str, _OLDEST[product]))
    return Finding("version", "error", f"{product} {number} is too old: {oldest} or newer is needed")


def eviction(info: Mapping[str, Any]) -> Finding:
    """Check that the server does not evict counters."""
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction" or not info.get("maxmemory"):
        return Finding("eviction", "warning")
    return Finding(
        "eviction",
        "warning",
        "Redis evicts counters when its memory is full, and their limits begin anew: "
        "set maxmemory-policy noeviction",
        {"policy": policy},
    )


def clock(offset: float) -> Finding:
    """Check that a server's clock, `offset` seconds ahead of this machine's, does not differ too much."""
    if abs(offset) <= LARGEST_OFFSET:
        return Finding("clock", "warning")
    message = "the clock of Redis differs from that of this machine, by which windows begin: run NTP on both"
    return Finding("clock", "warning", message, {"ahead": f"{offset:.1f}s"})
