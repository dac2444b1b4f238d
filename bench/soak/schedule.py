"""One soak: the schedule of changes and faults."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from testing.envoy import EnvoyProcess
from testing.redis_servers import RedisServer
from testing.service import ConfigMapMount
from testing.waiting import wait_for

from .callers import Books, Callers
from .parts import BROKEN, DURABLE, Replica, Replicas, Secrets, envoy_stats, gateway, in_redis, rules

ROLLING_AT, STOPPED_AT, KILLED_AT = 0.1, 0.4, 0.7
"""When the replicas are replaced, Redis is stopped, and Redis is killed, as shares of the whole time."""
AWAY = 3.0
"""Seconds of each outage of Redis."""
RELOAD_EVERY, BROKEN_EVERY, RENEW_EVERY = 15.0, 8, 10
"""Seconds between two reloads; every how many of them the file is broken, and the certificate is renewed."""
_LOOK_EVERY = 5.0
_AFTERWARDS = 2.0
"""Seconds after a fault in which an error is attributed to it."""
_PATIENCE = 60.0
_QUIET = ("debug", "info")
_OF_BROKEN_RULES = ("configuration refused", "the configuration was not loaded")
"""Log lines that a broken file may cause at any time."""


@dataclass
class Fault:
    """A fault, and the time (`time.time`) in which errors are attributed to it."""

    name: str
    began: float
    ended: float
    charge_errors: int = 0
    """Failed calls of Envoy meanwhile."""


@dataclass
class SoakResult:
    """The result of a soak."""

    transport: str
    seconds: float = 0.0
    rate: float = 0.0
    books: Books = field(default_factory=Books)
    held: Counter[str] = field(default_factory=Counter)
    replicas: list[Replica] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    reloads: int = 0
    broken: int = 0
    renewed: int = 0
    envoy: dict[str, int] = field(default_factory=dict)
    """Envoy's counters of the cluster of the service."""
    stray_lines: list[str] = field(default_factory=list)
    """Warnings and errors in the logs that no fault explains."""

    def explains(self, began: float, ended: float) -> Fault | None:
        """Return the fault to which an error in this time is attributed."""
        return next((fault for fault in self.faults if began <= fault.ended and ended >= fault.began), None)


class Soak:
    """A soak of `seconds`, at `rate` requests a second of the provider at a port, in a scratch directory."""

    def __init__(self, seconds: float, rate: float, transport: str, provider: int, scratch: Path) -> None:
        self._seconds = seconds
        self._stack = ExitStack()
        with self._stack:
            self._redis = self._stack.enter_context(RedisServer(*DURABLE))
            self._mount = ConfigMapMount(scratch / "rules", {"config.yaml": rules(0)})
            self._secrets = Secrets(scratch / "tls")
            chosen = {"GRPC_TRANSPORT": transport} if transport else {}
            self._replicas = Replicas(2, self._redis, self._mount, self._secrets, chosen)
            self._stack.callback(self._replicas.close)
            self._envoy = EnvoyProcess(
                scratch, gateway(self._replicas.ports, provider, self._secrets.transport_socket())
            )
            self._stack.callback(self._envoy.stop)
            self._callers = Callers(self._envoy.listeners["callers"], rate)
            self.soaked = SoakResult(self._replicas.transport(), rate=rate)
            self._stack = self._stack.pop_all()

    async def run(self) -> SoakResult:
        """Run the soak to its end."""
        with self._stack:
            await asyncio.to_thread(self._wait_until_healthy)
            self._began = time.time()
            await self._play()
            await asyncio.to_thread(self._close_the_books)
        return self.soaked

    async def _play(self) -> None:
        calling = asyncio.create_task(self._callers.run())
        looking = asyncio.create_task(self._again_and_again(_LOOK_EVERY, self._look))
        reloading = asyncio.create_task(self._again_and_again(RELOAD_EVERY, self._reload))
        ending = (looking, reloading)

        async def until(share: float) -> None:
            """Wait for this share of the time, or raise the exception that has ended one of the tasks."""
            left = max(0.0, self._began + share * self._seconds - time.time())
            ended, _ = await asyncio.wait(
                (calling, *ending), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            for task in ended:
                task.result()

        try:
            for share, fault in (
                (ROLLING_AT, self._roll),
                (STOPPED_AT, self._stop_redis),
                (KILLED_AT, self._kill_redis),
            ):
                await until(share)
                await asyncio.to_thread(fault)
            await until(1.0)
        finally:
            self._callers.end()
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await calling
        self.soaked.seconds = time.time() - self._began

    async def _again_and_again(self, pause: float, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(pause)
            await asyncio.to_thread(work)

    def _look(self) -> None:
        self._replicas.sample(time.time() - self._began)

    def _reload(self) -> None:
        """Change the ConfigMap; sometimes break it, and sometimes renew the certificate."""
        soaked = self.soaked
        turn = soaked.reloads + soaked.broken + 1
        if turn % RENEW_EVERY == 0:
            self._secrets.renew()
            soaked.renewed += 1
        if turn % BROKEN_EVERY == 0:
            soaked.broken += 1
            self._mount.update({"config.yaml": BROKEN})
        else:
            soaked.reloads += 1
            self._mount.update({"config.yaml": rules(turn)})

    def _roll(self) -> None:
        """Replace one replica after another."""
        for place in range(len(self._replicas.ports)):
            _say(f"replica {place} is replaced")
            self._replicas.replace(place)
            self._wait_until_healthy()

    def _stop_redis(self) -> None:
        self._without_redis("Redis is stopped (SIGTERM)", self._redis.stop)

    def _kill_redis(self) -> None:
        self._without_redis("Redis is killed (SIGKILL)", self._redis.kill)

    def _without_redis(self, name: str, end: Callable[[], None]) -> None:
        began, errors = time.time(), self._errors()
        _say(name)
        end()
        time.sleep(AWAY)
        self._redis.start()
        self._wait_until_settled()
        self._wait_until_healthy()
        time.sleep(_AFTERWARDS)
        self.soaked.faults.append(Fault(name, began, time.time(), self._errors() - errors))

    def _errors(self) -> int:
        """Return the number of checks and charges that failed in Envoy."""
        return envoy_stats(self._envoy.admin).get("cluster.llm.ratelimit.error", 0)

    def _wait_until_settled(self) -> None:
        replicas = self._replicas
        for metric in ("ratelimit_service_store_circuit_open", "ratelimit_service_store_journal_hits"):
            wait_for(f"{metric} is 0", lambda metric=metric: replicas.sum(metric) == 0, patience=_PATIENCE)  # type: ignore[misc]

    def _wait_until_healthy(self) -> None:
        """Wait until all replicas are healthy in Envoy."""
        wanted = {f"ratelimit::127.0.0.1:{port}::health_flags::healthy" for port in self._replicas.ports}

        def healthy() -> bool:
            text = httpx.get(f"http://{self._envoy.admin}/clusters", trust_env=False).text
            return wanted <= set(text.splitlines())

        wait_for("Envoy takes all replicas for healthy", healthy, patience=_PATIENCE)

    def _close_the_books(self) -> None:
        soaked, replicas = self.soaked, self._replicas
        self._look()
        wait_for(
            "no call is in hand",
            lambda: replicas.sum("ratelimit_service_calls_in_hand") == 0,
            patience=_PATIENCE,
        )
        self._wait_until_settled()
        prefix = "cluster.ratelimit."
        stats = envoy_stats(self._envoy.admin)
        soaked.envoy = {
            name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)
        }
        soaked.envoy["errors"] = self._errors()
        for replica in replicas.running:
            replica.stop()
        soaked.books = self._callers.books
        soaked.held = in_redis(self._redis)
        soaked.replicas = replicas.all
        for replica in replicas.all:
            for event in replica.service.everything():
                if event["level"] in _QUIET or event["@message"] in _OF_BROKEN_RULES:
                    continue
                at = datetime.fromisoformat(event["@timestamp"]).timestamp()
                if soaked.explains(at, at) is None:
                    soaked.stray_lines.append(f"{replica.name}: {event}")


def _say(what: str) -> None:
    """Print the progress."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {what}\n")
