"""A service with two workers, and functions to examine it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from testing.redis_servers import RedisServer
from testing.service import Caller, CommandResult, Service, run
from testing.waiting import wait_for

TERM, KILL = signal.SIGTERM, signal.SIGKILL
MANY = 20
"""Connections: the kernel gives all of them to one of two workers once in half a million times."""

transports = pytest.mark.parametrize("transport", ["grpcio", "native"])


@contextmanager
def workers(config: object, redis_url: str, **settings: str) -> Iterator[Service]:
    """Return a service with two workers."""
    environment = {"REDIS_URL": redis_url, "CONFIG_PATH": str(config), "WORKERS": "2", **settings}
    with Service(environment) as service:
        wait_for("healthy", lambda: service.health() == (200, "OK"))
        yield service


@contextmanager
def connections(service: Service, number: int = MANY) -> Iterator[list[Caller]]:
    """Open connections, one for each caller, until each of two workers has some."""
    with ExitStack() as stack:

        def connected() -> Caller:
            alone = [("grpc.use_local_subchannel_pool", 1)]
            return Caller(stack.enter_context(grpc.insecure_channel(service.grpc, options=alone)))

        callers = [connected() for _ in range(number)]
        for caller in callers:
            caller.ask("elsewhere", "team", "x")
        yield callers


def metrics(service: Service, name: str) -> dict[str, float]:
    """Return the series of a metric, by its labels as written in the scrape."""
    text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
    found = re.findall(rf"^ratelimit_service_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def states(service: Service) -> dict[str, float]:
    try:
        found = metrics(service, "workers")
    except httpx.TransportError:  # no worker serves the HTTP ports for a moment
        return {}
    return {labels.split('"')[1]: value for labels, value in found.items()}


def shares(service: Service) -> list[float]:
    """Return the number of calls that each worker has answered."""
    return list(metrics(service, "worker_calls").values())


def processes(service: Service) -> list[int]:
    """Return the processes of the workers, in the order of their start."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in commands.items() if b"cli.worker" in command]


def debug(service: Service, path: str) -> str:
    return httpx.get(f"http://{service.debug}/{path}", trust_env=False, timeout=60).text


def counter(redis: RedisServer, team: str) -> str:
    return min(redis.cli("KEYS", f"*team={team}*:year:*").split(), key=len)  # others mark crossed thresholds


def counted(redis: RedisServer, team: str) -> int:
    return int(redis.cli("GET", counter(redis, team)))


def alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def refused(config: str, redis_url: str, **settings: str) -> CommandResult:
    return run(
        "serve", environment={"REDIS_URL": redis_url, "CONFIG_PATH": config, "WORKERS": "2", **settings}
    )
