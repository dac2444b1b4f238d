"""The measured servers, on one core: servers that decide nothing, the service as deployed, another
service.
"""

from __future__ import annotations

import re
import signal
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from testing.envoy import EnvoyProcess
from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer, free_port
from testing.service import Service, port_of
from testing.waiting import wait_for

from .machine import LOAD_CORE, SERVER_CORE, pin
from .messages import write_rules

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / "build" / "compiled"
"""The package as wheels and the image have it (`make bench` builds it)."""
ENVOY = Path(__file__).with_name("envoy.yaml")
COMMAND = (sys.executable, "-P", "-m", "ratelimit_service", "serve")
"""-P: the working directory is not searched, so that PYTHONPATH says what is measured."""
SCRIPT_CALLS = ("evalsha", "evalsha_ro", "eval", "eval_ro", "fcall", "fcall_ro")
"""The commands that are round trips. The statistics of Redis also count commands within scripts."""

AS_DEPLOYED = {"REDIS_TIMEOUT": "1s", "STORE_ANSWER_DEADLINE": "500ms"}
"""The default settings. In a closed loop, which fills every queue, long deadlines let every call be decided.
"""


@dataclass
class Server:
    """A server on 127.0.0.1:`port`, with counters in `redis`, if any.

    The processes `ours` belong to it, but are not measured.
    """

    name: str
    port: int
    pids: list[int] = field(default_factory=list)
    redis: list[RedisServer] = field(default_factory=list)
    ours: list[int] = field(default_factory=list)
    service: Service | None = None

    @property
    def redis_pids(self) -> list[int]:
        """The processes of Redis."""
        return [server.pid for server in self.redis]

    def clients(self) -> Iterator[Redis]:
        """Return a client of each Redis."""
        for server in self.redis:
            client = Redis(unix_socket_path=str(server.unixsocket))
            yield client
            client.close()

    def script_calls(self) -> int:
        """Return the number of script calls to all Redis servers."""
        total = 0
        for client in self.clients():
            statistics: Any = client.info("commandstats")
            total += sum(statistics.get(f"cmdstat_{name}", {}).get("calls", 0) for name in SCRIPT_CALLS)
        return total

    def redis_memory(self) -> tuple[int, int]:
        """Return the bytes in use and the keys of all Redis servers."""
        used = keys = 0
        for client in self.clients():
            memory: Any = client.info("memory")
            used += memory["used_memory"]
            keys += int(str(client.dbsize()))
        return used, keys


def metric(service: Service, name: str) -> float:
    """Return the sum of all series of a metric, with a timeout for a busy service."""
    text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def series(service: Service) -> int:
    """Scrape the metrics, and return how many series there are."""
    text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
    return sum(1 for line in text.splitlines() if not line.startswith("#"))


@contextmanager
def nothing(transport: str) -> Iterator[Server]:
    """A server that decides nothing."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.empty_servers", transport], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            pin(process.pid, SERVER_CORE)
            yield Server(f"{transport}, decides nothing", port, [process.pid])
        finally:
            process.send_signal(signal.SIGTERM)


def as_installed() -> dict[str, str]:
    """Return the environment of a process that imports the package as it is installed, if that was built."""
    return {"PYTHONPATH": f"{COMPILED}:{ROOT}"} if COMPILED.exists() else {"PYTHONPATH": str(ROOT)}


@contextmanager
def start_service(
    transport: str,
    store: str,
    directory: Path,
    *,
    rules: int = 0,
    ledger: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start the service with all features on `store`: memory, redis or cluster.

    For `rules` and `ledger`, see messages.write_rules.
    """
    settings = {
        "CONFIG_PATH": ",".join(map(str, write_rules(directory, rules, ledger=ledger))),
        "BACKEND_TYPE": "memory" if store == "memory" else "redis",
        "GRPC_TRANSPORT": transport,
        "MEMORY_STORE_SIZE_IN_BYTES": str(2**30),
        "RESPONSE_DYNAMIC_METADATA": "false",
        **(environment or {}),
    }
    with ExitStack() as stack:
        servers: list[RedisServer] = []
        if store == "redis":
            servers = [stack.enter_context(RedisServer())]
            settings["REDIS_URL"] = servers[0].address
        elif store == "cluster":
            cluster = stack.enter_context(RedisCluster(primaries=3, replicas=0))
            servers = cluster.servers
            settings |= {"REDIS_TYPE": "CLUSTER", "REDIS_URL": cluster.url}
        for server in servers:
            pin(server.pid, SERVER_CORE)
        service = stack.enter_context(Service(settings | as_installed(), command=COMMAND))
        pin(service.pid, SERVER_CORE)
        wait_for("the store is reached", lambda: service.health()[0] == httpx.codes.OK, patience=60)
        yield Server(f"{transport}, {store}", port_of(service.grpc), [service.pid], servers, service=service)


@contextmanager
def target(address: str, pids: list[int]) -> Iterator[Server]:
    """A service that is already running on this machine."""
    host, _, port = address.rpartition(":")
    assert host in ("127.0.0.1", "localhost"), "the load goes to this machine only: give 127.0.0.1:PORT"
    yield Server("the other one", int(port), pids)


@contextmanager
def gateway(limiter: Server, directory: Path) -> Iterator[tuple[Server, EnvoyProcess]]:
    """Start an Envoy that sends a rate-limit request for each request, with the default timeout, and answers
    itself.
    """
    text = string.Template(ENVOY.read_text()).substitute(
        ratelimit_port=limiter.port, answers_port=free_port()
    )
    envoy = EnvoyProcess(directory, text)
    try:
        pin(envoy.pid, LOAD_CORE)
        port = port_of(envoy.listeners["gateway"])
        yield (
            Server(
                f"Envoy before {limiter.name}",
                port,
                limiter.pids,
                limiter.redis,
                [envoy.pid],
                limiter.service,
            ),
            envoy,
        )
    finally:
        envoy.stop()


def statistics(envoy: EnvoyProcess) -> dict[str, int]:
    """Return the counters of Envoy; unused ones are missing."""
    text = httpx.get(f"http://{envoy.admin}/stats?usedonly", trust_env=False).text
    return {name: int(value) for name, value in re.findall(r"^(\S+): (\d+)$", text, re.MULTILINE)}
