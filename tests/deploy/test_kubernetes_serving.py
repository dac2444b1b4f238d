"""deploy/kubernetes without a cluster: the service with the environment and the rules of the Deployment. Its
probes are sent as kubelet sends them, its ConfigMap is mounted as kubelet mounts it, and Redis has the
redis.conf of the overlay. test_kubernetes.py tests the objects.
"""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import grpc
import pytest
import structlog

from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.stores.redis.watchdog import RedisWatchdog
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from testing.service import ConfigMapMount, Service, calling, run
from testing.waiting import wait_for

from ..docs.documents import load_text
from ..process.conftest import probing, serving
from .kustomize import BASE, OVERLAYS, Objects, rendered, written

REDIS_CONF = OVERLAYS / "redis" / "redis.conf"


def directives() -> dict[str, str]:
    """Return the directives of redis.conf."""
    lines = [line for line in REDIS_CONF.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def redis_as_deployed() -> RedisServer:
    """A Redis with redis.conf, except for its address and the directory of its files."""
    wanted = {name: value for name, value in directives().items() if name not in ("dir", "bind")}
    return RedisServer(*(word for name, value in wanted.items() for word in (f"--{name}", *_words(value))))


def _words(value: str) -> list[str]:
    return shlex.split(value) or [""]


def environment(objects: Objects, root: Path, **instead: str) -> dict[str, str]:
    """Return the environment of the Deployment, with the rules mounted below `root` instead of /.

    Their windows are years, so none ends during a test.
    """
    rules = objects.one("ConfigMap", "ratelimit-config")["data"]
    (mount,) = [each for each in objects.container["volumeMounts"] if each["name"] == "config"]
    years = {name: text.replace("unit: minute", "unit: year") for name, text in rules.items()}
    ConfigMapMount(root / mount["mountPath"].lstrip("/"), years)
    return {**objects.environment, "RUNTIME_ROOT": str(root / "data"), **instead}


def test_the_rules_load_without_a_warning() -> None:
    """By the loader, and in their manifest by `check-config`, as in the README."""
    (text,) = written().one("ConfigMap", "ratelimit-config")["data"].values()
    rules = load_text(text)
    assert ("token-budgets", ()) == (rules.domains[0].name, rules.warnings)
    checked = run("check-config", "--strict", str(BASE / "ratelimit-config.yaml"), environment={})
    assert (0, "ok: 1 rule in 1 domain\n") == (checked.code, checked.out)


def test_only_the_startup_probe_waits_for_redis(tmp_path: Path) -> None:
    """A pod that starts without Redis is not ready.

    Later, an outage of Redis makes no replica unready, and charges are kept.
    """
    objects = written()
    with redis_as_deployed() as redis:
        redis.stop()
        settings = environment(objects, tmp_path, REDIS_URL=redis.address, REDIS_TIMEOUT="1s")
        with Service(settings) as service, probing(service) as probe, calling(service.grpc) as gateway:

            def passes(name: str) -> bool:
                asked = objects.container[f"{name}Probe"]["grpc"]["service"]
                return serving(probe, asked) == "SERVING"

            assert (False, True) == (passes("startup"), passes("liveness"))
            redis.start()
            wait_for("a pod that is ready", lambda: passes("startup"))

            gateway.ask("token-budgets", "client_ns", "apps", hits=40)
            redis.stop()
            wait_for("an outage that is noticed", lambda: not passes("startup"))
            assert (True, True) == (passes("readiness"), passes("liveness"))
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                gateway.ask("token-budgets", "client_ns", "apps", hits=20)

            redis.start()
            (key,) = wait_for("what Redis kept on its disk", lambda: _keys(redis))
            assert re.fullmatch(r"\{token-budgets\|client_ns=apps\}:year:20\d\d-01-01", key)
            wait_for("what was charged meanwhile", lambda: redis.cli("GET", key) == "60")
            assert 0 == service.stop()


def _keys(redis: RedisServer) -> list[str]:
    """Return the keys of counters."""
    keys = redis.cli("--scan").split()
    return [key for key in keys if key.startswith("{") and not key.startswith("{amendments}")]


def test_a_single_replica_keeps_its_counters_across_a_restart(tmp_path: Path) -> None:
    """In the overlay without Redis, they are in the file on the volume."""
    objects = rendered(OVERLAYS / "single")
    counters = Path(objects.environment["MEMORY_SNAPSHOT_PATH"])
    volume = tmp_path / "volume"
    volume.mkdir()
    settings = environment(objects, tmp_path, MEMORY_SNAPSHOT_PATH=str(volume / counters.name))
    for used in (0, 40):
        with Service(settings) as service, calling(service.grpc) as gateway:
            left = gateway.ask("token-budgets", "client_ns", "apps").statuses[0].limit_remaining
            assert 100 - used == left
            gateway.ask("token-budgets", "client_ns", "apps", hits=40)
            assert 0 == service.stop()


# Redis


@pytest.mark.parametrize("conf", ["as deployed", "without"])
async def test_the_service_logs_no_warning_about_the_deployed_redis(conf: str) -> None:
    """It persists its counters and evicts none; a Redis without redis.conf causes warnings."""
    with redis_as_deployed() if conf == "as deployed" else RedisServer() as redis:
        store = RedisStore(connect(redis.url))
        watch = RedisWatchdog(time.time, lambda: True)
        watch.add(store)
        with structlog.testing.capture_logs() as logs:
            assert await watch.check()
        await store.close()
    warnings = [log["event"] for log in logs if log["log_level"] in ("warning", "error")]
    assert (conf == "as deployed") is (warnings == [])


def test_redis_accepts_every_line_of_its_file() -> None:
    """CONFIG GET returns the values in the file, and maxmemory is half of the container's memory."""
    wanted = {name: value for name, value in directives().items() if name not in ("dir", "bind")}
    with redis_as_deployed() as redis:
        got = {name: redis.cli("CONFIG", "GET", name).partition("\n")[2] for name in wanted}
    assert "209715200" == got.pop("maxmemory")
    assert "200mb" == wanted.pop("maxmemory")
    assert {name: value.strip('"') for name, value in wanted.items()} == got


def test_redis_has_memory_to_rewrite_its_log() -> None:
    """A fork may copy all of it. The container reads the mounted file."""
    objects = rendered(OVERLAYS / "redis")
    (container,) = objects.one("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    megabytes = int(directives()["maxmemory"].removesuffix("mb"))
    assert 2 * megabytes < int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert ["redis-server", f"{mounts['config']}/{REDIS_CONF.name}"] == container["command"]
    assert directives()["dir"] == mounts["data"]
    (config,) = [
        each for each in objects.of("ConfigMap") if each["metadata"]["name"].startswith("redis-config")
    ]
    assert {REDIS_CONF.name: REDIS_CONF.read_text()} == config["data"]
