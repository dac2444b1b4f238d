"""Envoy's redis_proxy in front of several Redis servers: it spreads keys over them, transparently."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .envoy import EnvoyProcess
from .redis_servers import RedisServer


class RedisProxy:
    """A running proxy; clients connect to `port`.

    With `hash_tags` it hashes the text between a key's first braces; by default the whole key.
    """

    def __init__(self, servers: Sequence[RedisServer], *, hash_tags: bool = False) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="redis-proxy-"))
        try:
            self._envoy = EnvoyProcess(
                self._directory, json.dumps(_bootstrap([server.port for server in servers], hash_tags))
            )
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        self.port = int(self._envoy.listeners["redis"].rpartition(":")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._envoy.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """Its address for REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}"


def _bootstrap(ports: Sequence[int], hash_tags: bool) -> dict[str, Any]:
    any_port = _address(0)
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
        "stat_prefix": "redis",
        "settings": {"op_timeout": "5s", "enable_hashtagging": hash_tags},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
    }
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    cluster = {
        "name": "redis",
        "type": "STATIC",
        "lb_policy": "MAGLEV",
        "load_assignment": {"cluster_name": "redis", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    filters = [{"name": "envoy.filters.network.redis_proxy", "typed_config": proxy}]
    listener = {"name": "redis", "address": any_port, "filter_chains": [{"filters": filters}]}
    return {
        "admin": {"address": any_port},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
