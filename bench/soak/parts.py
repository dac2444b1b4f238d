"""The parts of a soak: a Redis that loses no acknowledged write, two replicas with TLS, and the Envoy of
deploy/envoy.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from testing.certificates import Authority
from testing.redis_servers import RedisServer, free_port
from testing.service import ConfigMapMount, Service

from ..machine import resident_bytes
from .callers import SMALL_TEAMS

ROOT = Path(__file__).parents[2]
SERVICE_NAME, GATEWAY_NAME = "ratelimit.ratelimit.svc", "envoy.gateways.svc"
CONNECTION_AGE = 30
"""Seconds: so a soak of an hour has some 120 generations of connections."""
_DRAIN = "10s"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
"""A Redis that loses no acknowledged write, so that charges can be compared exactly."""
_HUGE = 10**12


def rules(version: int) -> str:
    """Return the rules; each version has another limit for an unused team."""
    small = "".join(
        f"""
  - key: team
    value: small-{number}
    rate_limits:
      - {{name: small-by-minute, unit: minute, tokens_per_unit: 50_000}}
      - {{name: small-by-year, unit: year, tokens_per_unit: {_HUGE}}}"""
        for number in range(SMALL_TEAMS)
    )
    return f"""\
domain: team-budgets
required_keys: [team]
descriptors:
  - key: gateway
    value: llm
    rate_limit: {{unlimited: true}}
  - key: team
    value: nobody
    rate_limit: {{unit: hour, tokens_per_unit: {version + 1}}}{small}
  - key: team
    rate_limits:
      - {{name: by-minute, unit: minute, tokens_per_unit: {_HUGE}}}
      - {{name: by-year, unit: year, tokens_per_unit: {_HUGE}}}
"""


BROKEN = (
    "domain: team-budgets\ndescriptors: [{key: team, rate_limit: {unit: fortnight, tokens_per_unit: 1}}]\n"
)


class Secrets:
    """Certificates of the service and of the gateway, in a directory; `renew` issues a new one for the
    service.
    """

    def __init__(self, directory: Path) -> None:
        self._authority = Authority()
        self._directory = directory
        directory.mkdir()
        self.authority_file = self._authority.write(directory)
        self._authority.issue(GATEWAY_NAME).write(directory)
        self.renew()

    def renew(self) -> None:
        """Issue a new certificate for the service."""
        self.pair = self._authority.issue(SERVICE_NAME).write(self._directory, "service")

    def transport_socket(self) -> Any:
        """How Envoy connects to the service: the snippet of docs/security.md."""
        page = (ROOT / "docs" / "security.md").read_text("utf-8")
        (snippet,) = re.findall(r"^```yaml\n(transport_socket:\n.*?)^```", page, re.MULTILINE | re.DOTALL)
        return yaml.safe_load(snippet.replace("/etc/tls/", f"{self._directory}/"))["transport_socket"]


def gateway(ports: list[int], llm: int, transport_socket: object) -> str:
    """Return the configuration of deploy/envoy with these replicas, and with longer timeouts for slow
    machines.
    """
    text: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "envoy" / "envoy.yaml").read_text())
    resources = text["static_resources"]
    (listener,) = resources["listeners"]
    for place in (text["admin"]["address"], listener["address"]):
        place["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["access_log"]
    for each in manager["http_filters"]:
        if each["name"] == "envoy.filters.http.ratelimit":
            each["typed_config"]["timeout"] = "10s"
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    for name, behind in (("ratelimit", ports), ("llm", [llm])):
        places = [{"address": "127.0.0.1", "port_value": port} for port in behind]
        clusters[name]["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": place}}} for place in places]}
        ]
    clusters["ratelimit"]["transport_socket"] = transport_socket
    (check,) = clusters["ratelimit"]["health_checks"]
    check |= {"interval": "1s", "no_traffic_interval": "1s", "timeout": "5s"}
    return yaml.safe_dump(text)


@dataclass
class Sample:
    """A sample of a process: seconds since the beginning of the soak, bytes in use, and open descriptors."""

    at: float
    resident: int
    descriptors: int


@dataclass
class Replica:
    """One process of the service, with its samples."""

    name: str
    service: Service
    samples: list[Sample] = field(default_factory=list)
    code: int | None = None
    counted: dict[str, float] = field(default_factory=dict)
    """Metrics at its end."""

    def sample(self, at: float) -> None:
        """Take a sample, unless the process has just ended: it may be replaced meanwhile."""
        pid = self.service.pid
        with contextlib.suppress(OSError, AssertionError):
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            self.samples.append(Sample(at, resident_bytes(pid), descriptors))

    def count(self) -> None:
        """Read the metrics that the report has."""
        for name in METRICS:
            self.counted[name] = self.service.metric(name)

    def stop(self) -> None:
        """End it as a rollout does."""
        self.count()
        self.code = self.service.stop()


METRICS = (
    "ratelimit_service_config_load_success",
    "ratelimit_service_config_load_error",
    "ratelimit_service_store_journal_dropped",
    "ratelimit_service_store_failures",
)


class Replicas:
    """Replicas at fixed ports; the process of each can be replaced."""

    def __init__(
        self, count: int, redis: RedisServer, mount: ConfigMapMount, secrets: Secrets, more: Mapping[str, str]
    ) -> None:
        certificate, key = secrets.pair
        self._environment = {
            "CONFIG_PATH": str(mount.directory),
            "REDIS_URL": redis.url,
            "GRPC_MAX_CONNECTION_AGE": f"{CONNECTION_AGE}s",
            "GRPC_MAX_CONNECTION_AGE_GRACE": "10s",
            "GRPC_SERVER_USE_TLS": "true",
            "GRPC_SERVER_TLS_CERT": certificate,
            "GRPC_SERVER_TLS_KEY": key,
            "GRPC_CLIENT_TLS_CACERT": secrets.authority_file,
            "GRPC_CLIENT_TLS_SAN": GATEWAY_NAME,
            "SHUTDOWN_DRAIN": _DRAIN,
            **more,
        }
        self.ports = [free_port() for _ in range(count)]
        self.running: list[Replica] = []
        self.all: list[Replica] = []
        for place in range(count):
            self.running.append(self._start(place))

    def _start(self, place: int) -> Replica:
        name = f"{'ABCDEFGH'[len(self.all)]}"
        replica = Replica(name, Service({**self._environment, "GRPC_PORT": str(self.ports[place])}))
        self.all.append(replica)
        return replica

    def replace(self, place: int) -> None:
        """Stop the process at a port, and start another one there."""
        self.running[place].stop()
        self.running[place] = self._start(place)

    def sample(self, at: float) -> None:
        """Take a sample of each replica."""
        for replica in self.running:
            replica.sample(at)

    def sum(self, metric: str) -> float:
        """Return the sum of a metric over all running replicas."""
        return sum(replica.service.metric(metric) for replica in self.running)

    def transport(self) -> str:
        """The gRPC transport, according to the log."""
        (said,) = {replica.service.events("serving")[0]["transport"] for replica in self.all}
        return str(said)

    def close(self) -> None:
        """Stop all of them."""
        for replica in self.running:
            replica.service.kill()


def in_redis(redis: RedisServer) -> Counter[str]:
    """Return the counters of the year, by team."""
    held = Counter[str]()
    keys = redis.cli("--scan", "--pattern", "{team-budgets|team=*}:year:*").split()
    for key in keys:
        team = key.partition("team=")[2].partition("}")[0]
        held[team] += int(redis.cli("GET", key))
    return held


def envoy_stats(admin: str) -> dict[str, int]:
    """Return Envoy's counters, by name."""
    text = httpx.get(f"http://{admin}/stats", params={"filter": "^cluster\\."}, trust_env=False).text
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        if value.isdigit():
            found[name] = int(value)
    return found
