"""deploy/envoy/envoy.yaml on free ports, in a real Envoy.

Only addresses are replaced: that of the listener, and those of the service and the provider. The timeout for
the service is also longer, unless a test is about time, so that no test fails on a slow machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from testing.envoy import EnvoyProcess, connection_manager
from testing.service import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "envoy"


FILE = FOLDER / "envoy.yaml"


RULES = FOLDER / "rules.yaml"


JSON, STREAM = False, True
ASSUMED = 1_000
"""The charge for an answer without usage."""


def bootstrap(*, ratelimit: int, llm: int, patient: bool = True) -> dict[str, Any]:
    """Return envoy.yaml on free ports, with the service and the provider at these addresses."""
    text: dict[str, Any] = yaml.safe_load(FILE.read_text())
    resources = text["static_resources"]
    places = [text["admin"]["address"], *(listener["address"] for listener in resources["listeners"])]
    for place in places:
        place["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    ports = {"ratelimit": ("ratelimit", 8081, ratelimit), "llm": ("upstream", 8080, llm)}
    for cluster in resources["clusters"]:
        (group,) = cluster["load_assignment"]["endpoints"]
        (host,) = group["lb_endpoints"]
        place = host["endpoint"]["address"]["socket_address"]
        name, documented, port = ports.pop(cluster["name"])
        assert {"address": name, "port_value": documented} == place
        place |= {"address": "127.0.0.1", "port_value": port}
    if patient:
        ratelimit_filter(text)["timeout"] = "10s"
    return text


def ratelimit_filter(text: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the rate limit filter."""
    filters = connection_manager(text)["http_filters"]
    (found,) = (each["typed_config"] for each in filters if each["name"] == "envoy.filters.http.ratelimit")
    assert isinstance(found, dict)
    return found


@contextmanager
def running(directory: Path, text: dict[str, Any]) -> Iterator[str]:
    """Run an Envoy with this configuration, and yield its address for callers."""
    directory.mkdir(exist_ok=True)
    envoy = EnvoyProcess(directory, yaml.safe_dump(text))
    try:
        yield f"http://{envoy.listeners['callers']}"
    finally:
        envoy.stop()


def bucket(team: str) -> str:
    return f"team-budgets|team={team}"
