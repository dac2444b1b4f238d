"""What docs/migrating-from-envoyproxy-ratelimit.md says: it leaves nothing of upstream's out, and its script
carries counts over.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ratelimit_service.assembly.policy import policy_of
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Descriptor, Entry, Request
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.catalogue.all_metrics import CATALOGUE
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings.table import documented, load_settings
from ratelimit_service.settings.unsupported import UNNEEDED, UNSUPPORTED
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

from ..settings.test_upstream import UPSTREAM
from .documents import DOCS, NOW, Table, section, tables

PAGE = DOCS / "migrating-from-envoyproxy-ratelimit.md"
TEXT = PAGE.read_text("utf-8")

NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b(?!…)")
METRIC = re.compile(r"\bratelimit_service_\w+")

NEWER = {"STATSD_PROTOCOL", "USE_CALENDAR_MONTH_RATE_LIMIT"}
"""Variables that are upstream's, though not in the table of its settings: one is its library's, one came
later."""

DEFAULTS = {
    "HOST": "0.0.0.0",
    "PORT": "8080",
    "DEBUG_HOST": "0.0.0.0",
    "DEBUG_PORT": "6070",
    "GRPC_HOST": "0.0.0.0",
    "GRPC_PORT": "8081",
    "GRPC_MAX_CONNECTION_AGE": "24h",
    "GRPC_MAX_CONNECTION_AGE_GRACE": "1h",
    "LOG_LEVEL": "WARN",
    "TRACING_SERVICE_NAME": "RateLimit",
    "TRACING_EXPORTER_PROTOCOL": "http",
    "TRACING_SAMPLING_RATE": "1",
    "LOG_FORMAT": "text",
    "CONFIG_TYPE": "FILE",
    "USE_PROMETHEUS": "false",
    "PROMETHEUS_ADDR": ":9090",
    "PROMETHEUS_PATH": "/metrics",
    "RUNTIME_ROOT": "/srv/runtime_data/current",
    "RUNTIME_APPDIRECTORY": "config",
    "RUNTIME_WATCH_ROOT": "true",
    "EXPIRATION_JITTER_MAX_SECONDS": "300",
    "LOCAL_CACHE_SIZE_IN_BYTES": "0",
    "NEAR_LIMIT_RATIO": "0.8",
    "BACKEND_TYPE": "redis",
    "CONFIG_GRPC_XDS_NODE_ID": "default",
    "CONFIG_GRPC_XDS_SERVER_URL": "localhost:18000",
    "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "10s",
    "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "60s",
    "XDS_CLIENT_BACKOFF_RANDOM_FACTOR": "0.5",
    "XDS_CLIENT_BACKOFF_JITTER": "true",
    "LIMIT_LIMIT_HEADER": "RateLimit-Limit",
    "LIMIT_REMAINING_HEADER": "RateLimit-Remaining",
    "LIMIT_RESET_HEADER": "RateLimit-Reset",
    "REDIS_SOCKET_TYPE": "unix",
    "REDIS_TYPE": "SINGLE",
    "REDIS_URL": "/var/run/nutcracker/ratelimit.sock",
    "REDIS_POOL_SIZE": "10",
    "REDIS_TIMEOUT": "10s",
    "REDIS_PERSECOND_SOCKET_TYPE": "unix",
    "REDIS_PERSECOND_TYPE": "SINGLE",
    "REDIS_PERSECOND_URL": "/var/run/nutcracker/ratelimitpersecond.sock",
    "REDIS_PERSECOND_POOL_SIZE": "10",
    "REDIS_PERSECOND_TIMEOUT": "10s",
}
"""Upstream's, of what is supported here; those that are not in it are off, or empty."""

COUNTED_UPSTREAM = (
    *("total_hits", "within_limit", "near_limit", "over_limit", "over_limit_with_local_cache", "shadow_mode"),
    *("domain_not_found", "config_load_success", "config_load_error", "global_shadow_mode"),
    *("redis_error", "service_error", "total_requests", "response_time"),
    *("cx_active", "cx_total", "cx_local_close", "ratelimit.redis_per_second_pool", "ratelimit.localcache"),
    *("ratelimit.memcache", "ratelimit.go", "load_attempts", "load_failures", "num_values", "certs"),
    *("statsd_exporter", "promhttp"),
)
"""The ends or the beginnings of the names of all that upstream counts, or that its Prometheus port shows
beside it."""


def one_table(*head: str) -> Table:
    """The only table of the page with this head."""
    (table,) = tables(PAGE, *head)
    return table


def verdicts() -> dict[str, list[str]]:
    """What the page says of variables, by its verdict; a variable that stands in two rows is there twice."""
    found: dict[str, list[str]] = {}
    for names, verdict, _ in one_table("variables", "here").rows:
        found.setdefault(verdict, []).extend(NAME.findall(names))
    return found


def test_every_variable_of_upstream_stands_in_the_table_once() -> None:
    """Whoever searches the page for a variable finds what becomes of it."""
    assert sorted({*UPSTREAM, *NEWER}) == sorted(name for names in verdicts().values() for name in names)


def test_each_variable_has_the_documented_default() -> None:
    """It has upstream's default where the table does not say that it is different; else it means nothing
    here.
    """
    defaults = {setting.name: setting.default for setting in documented()}
    said = verdicts()
    assert {"same", "better", "different", "not needed", "not there"} == said.keys()
    assert sorted(name for unneeded in UNNEEDED for name in unneeded.names) == sorted(said["not needed"])
    assert sorted(name for absent in UNSUPPORTED for name in absent.names) == sorted(said["not there"])
    assert [] == [
        name
        for name in [*said["same"], *said["better"]]
        if defaults[name] != DEFAULTS.get(name, "false" if defaults[name] == "false" else "")
    ]
    assert set(said["different"]) <= defaults.keys()


def test_a_default_that_differs_from_upstream_is_marked_as_different() -> None:
    """What docs/settings.md names upstream's default of is in a row of its own here, with the reason."""
    other = {setting.name for setting in documented() if "envoyproxy/ratelimit: " in setting.meaning}
    assert other <= set(verdicts()["different"])
    reasons = [why for _, verdict, why in one_table("variables", "here").rows if verdict != "same"]
    assert [] == [why for why in reasons if not why]


def test_the_ports_are_those_of_the_settings() -> None:
    """By the variable that moves each."""
    defaults = {setting.name: setting.default.removeprefix(":") for setting in documented()}
    rows = [row for row in one_table("port", "variable").rows if "outwards" not in row[0]]
    assert {"GRPC_PORT", "PORT", "DEBUG_PORT", "PROMETHEUS_ADDR"} == {row[1] for row in rows}
    assert [defaults[row[1]] for row in rows] == [row[0] for row in rows]


def test_every_metric_that_upstream_has_too_is_in_the_table() -> None:
    """Under the name that it is scraped as, which is the same here."""
    named = {
        name for row in one_table("upstream counts", "scraped as").rows for name in METRIC.findall(row[1])
    }
    assert {metric.name for metric in CATALOGUE if metric.upstream} == named


@pytest.mark.parametrize("name", COUNTED_UPSTREAM)
def test_everything_that_upstream_counts_is_in_the_table(name: str) -> None:
    """With what there is in its place."""
    rows = one_table("upstream counts", "scraped as").rows
    assert [row for row in rows if re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z])", " ".join(row[:2]))]


# Counts of running windows


@pytest.fixture
def run(redis_server: RedisServer, tmp_path: Path) -> Callable[[str], None]:
    """Runs a script at NOW, whose redis-cli speaks to the Redis of the tests."""
    real = {name: shutil.which(name) for name in ("redis-cli", "date")}
    programs = {
        "redis-cli": f'exec {real["redis-cli"]} -s {redis_server.unixsocket} "$@"',
        "date": f'[ "$*" != +%s ] || {{ echo {int(NOW)}; exit; }}\nexec {real["date"]} "$@"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def script(text: str) -> None:
        subprocess.run(
            ["sh", "-euc", text], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=True
        )

    return script


@pytest.mark.parametrize("row", one_table("unit", "seconds", "form").rows, ids=lambda row: str(row[0]))
async def test_the_script_carries_counts_over_and_back(
    row: list[str], run: Callable[[str], None], redis_server: RedisServer, redis_url: str
) -> None:
    """What upstream has counted is added once to what is counted here, however often it is run; exchanged, it
    goes back.
    """
    unit, seconds, form = row
    (block,) = [block for block in section(PAGE, "## Counts of running windows") if block.info == "sh"]
    first, rest = block.text.split("\n", 1)
    assert "unit=month seconds=2592000 form=%Y-%m-%d" == first
    here = f"unit={unit} seconds={seconds} form={form}\n{rest}"
    began = int(NOW) // int(seconds) * int(seconds)
    theirs = f"token-budgets_team_dba_{began}"
    redis_server.cli("SET", theirs, "400")
    store = RedisStore(connect(redis_url))
    await store.start()
    try:
        service = serving(store, unit)
        assert 1000 - 7 == await left(service, hits=7)
        run(here)
        run(here)
        assert 1000 - 407 == await left(service, hits=0)
        (ours,) = redis_server.cli("--scan", "--pattern", "{token-budgets|*").splitlines()
        assert 0 < int(redis_server.cli("TTL", ours)) <= began + int(seconds) - NOW
        used = rest.index("  used=")
        run(here.replace(rest[used:], exchanged(rest[used:])))
        assert ("", "407") == (redis_server.cli("GET", ours), redis_server.cli("GET", theirs))
        assert 1000 == await left(service, hits=0)
    finally:
        await store.close()


def exchanged(lines: str) -> str:
    return lines.replace("$old", "$then").replace("$new", "$old").replace("$then", "$new")


def serving(store: RedisStore, unit: str) -> RateLimitService:
    """A service at NOW, with a limit that upstream has, too."""
    rules = (
        "domain: token-budgets\ndescriptors: [{key: team, rate_limit: {unit: %s, requests_per_unit: 1000}}]"
    )
    service = RateLimitService(store, Metrics(), lambda: NOW, policy_of(load_settings({})))
    service.use(RuleTree(load([read("rules.yaml", (rules % unit).encode())]).domains))
    return service


async def left(service: RateLimitService, *, hits: int) -> int:
    """What is left for the team dba."""
    asked = Request("token-budgets", (Descriptor((Entry(b"team", b"dba"),), hits),))
    decision = await service.should_rate_limit(asked)
    assert isinstance(decision, Decision)
    (status,) = decision.statuses
    return status.remaining
