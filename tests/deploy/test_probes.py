"""Kubelet's view of a start with rules over xDS: the control plane is unreachable, with and without a saved
set, or becomes reachable later.

The probes are those of the manifests; the service has the settings of their containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from testing.control_plane import limit, resource
from testing.redis_servers import RedisServer
from testing.service import Service, calling
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from .envoy_gateway import ENVIRONMENT, container
from .gateways import DEPLOY, Object, objects
from .kubelet import Kubelet
from .kustomize import Objects

RULES = resource("shop", limit("team", 5))


class Deployed(NamedTuple):
    """A container with its environment, and the names of its ports."""

    container: Object
    environment: Mapping[str, str]
    named: Mapping[str, int]


def of_envoy_gateway(*, patched: bool) -> Deployed:
    """Return the container that Envoy Gateway creates, with the environment and the patch of values.yaml, or
    without them.
    """
    values = yaml.safe_load((DEPLOY / "envoy-gateway" / "values.yaml").read_text())
    configured = values["config"]["envoyGateway"]["provider"]["kubernetes"]["rateLimitDeployment"]
    extra = {each["name"]: each["value"] for each in configured["container"]["env"]} if patched else {}
    (made,) = container(ENVIRONMENT)["spec"]["template"]["spec"]["containers"]
    if patched:
        (patch,) = configured["patch"]["value"]["spec"]["template"]["spec"]["containers"]
        for name in patch.keys() - {"name"}:
            made[name] = {
                key: value for key, value in {**made[name], **patch[name]}.items() if value is not None
            }
    return Deployed(made, {**ENVIRONMENT, **extra}, {})


def of_manifest(file: Path, **more: str) -> Deployed:
    """Return the container of a Deployment."""
    (pod,) = Objects(objects(file)).pods
    (made,) = pod["spec"]["containers"]
    env = {each["name"]: each["value"] for each in made["env"] if "value" in each}
    return Deployed(made, {**env, **more}, {each["name"]: each["containerPort"] for each in made["ports"]})


XDS = {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_PATH": ""}
DEPLOYED = {
    "envoy-gateway": of_envoy_gateway(patched=True),
    "envoy-gateway with its own probes": of_envoy_gateway(patched=False),
    "envoy-ai-gateway": of_manifest(DEPLOY / "envoy-ai-gateway" / "ratelimit.yaml"),
    "kubernetes": of_manifest(DEPLOY / "kubernetes" / "base" / "deployment.yaml", **XDS),
}
WAITING = {"envoy-ai-gateway", "kubernetes"}
"""The deployments whose start waits for the first rules."""


def here(
    deployed: Deployed, plane: ThreadedControlPlane, redis: RedisServer, cache: Path | str
) -> dict[str, str]:
    """Return the environment, with paths and ports of this machine, and without TLS."""
    taken_away = {"GRPC_PORT", "PORT", "DEBUG_PORT", "DEBUG_HOST", "HOST", "GRPC_HOST"}
    kept = {name: value for name, value in deployed.environment.items() if name not in taken_away}
    return {
        **kept,
        "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
        "CONFIG_GRPC_XDS_SERVER_USE_TLS": "false",
        "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "",
        "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "",
        "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "",
        "GRPC_SERVER_USE_TLS": "false",
        "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "50ms",
        "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "100ms",
        "XDS_CACHE_DIR": str(cache),
        "XDS_OVERLAYS": "",
        "REDIS_URL": redis.address,
        "PROMETHEUS_ADDR": "127.0.0.1:0",
        "SHUTDOWN_DRAIN": "0s",
    }


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_late_control_plane_causes_no_restart(name: str, redis_server: RedisServer) -> None:
    """Without a saved set. If the start waits, no call arrives before the rules; otherwise, calls get
    UNAVAILABLE.

    Later, an outage of the control plane has no effect.
    """
    deployed = DEPLOYED[name]
    with ThreadedControlPlane() as plane:
        plane.stop()
        with (
            Service(here(deployed, plane, redis_server, "")) as service,
            calling(service.grpc) as caller,
        ):
            pod = Kubelet(deployed.container, service, deployed.named)
            wait_for("Redis", lambda: "redis" not in service.health()[1])
            pod.run(590)
            waits = name in WAITING
            assert (not waits, not waits, 0) == (pod.started, pod.ready, pod.restarts)
            assert "UNAVAILABLE" == caller.status("shop", "team", "dba")

            plane.start()
            plane.send(RULES)
            wait_for("the rules", lambda: caller.status("shop", "team", "dba") == "OK")
            wait_for("a healthy service", lambda: service.health() == (200, "OK"))
            pod.run(15)
            assert (True, True, 0) == (pod.started, pod.ready, pod.restarts)

            plane.stop()
            pod.run(600)
            assert (True, 0, 5) == (pod.ready, pod.restarts, caller.limit("shop", "team", "dba"))


@pytest.mark.parametrize("name", [name for name in DEPLOYED if "own probes" not in name])
def test_a_saved_set_makes_a_pod_ready_without_a_control_plane(
    name: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A restarted container finds it in its emptyDir."""
    deployed = DEPLOYED[name]
    with ThreadedControlPlane() as plane:
        settings = here(deployed, plane, redis_server, tmp_path)
        plane.send(RULES)
        with Service(settings) as service:
            wait_for("a set in a file", lambda: list(tmp_path.glob("xds-*[0-9a-f]")))
            assert 0 == service.stop()
        plane.stop()
        with Service(settings) as service, calling(service.grpc) as caller:
            pod = Kubelet(deployed.container, service, deployed.named)
            wait_for("a healthy service", lambda: service.health() == (200, "OK"))
            pod.run(15)
            assert (True, True, 0) == (pod.started, pod.ready, pod.restarts)
            assert 5 == caller.limit("shop", "team", "dba")


@pytest.mark.parametrize("name", sorted(WAITING))
def test_a_start_without_rules_is_repeated_after_ten_minutes(name: str, redis_server: RedisServer) -> None:
    """Until then, kubelet shows the pod as not ready, and its log has the reason."""
    deployed = DEPLOYED[name]
    with ThreadedControlPlane() as plane:
        plane.stop()
        with Service(here(deployed, plane, redis_server, "")) as service:
            pod = Kubelet(deployed.container, service, deployed.named)
            pod.run(599)
            assert (False, 0) == (pod.started, pod.restarts)
            pod.run(1)
            assert (False, 1) == (pod.started, pod.restarts)
            service.wait_for_text("(the control plane is away)")


def test_a_service_that_hangs_is_restarted() -> None:
    """A test of the simulation: three failures of a liveness probe; before that, the pod is not ready."""
    answers: dict[str, Any] = {"startup": True, "readiness": True, "liveness": True}
    (made,) = [DEPLOYED["envoy-ai-gateway"].container]
    pod = Kubelet(made, None, {})  # type: ignore[arg-type]
    pod._passes = lambda probe: answers[next(n for n in answers if made[f"{n}Probe"] is probe)]  # type: ignore[method-assign]
    pod.run(10)
    assert (True, True, 0) == (pod.started, pod.ready, pod.restarts)
    answers.update(readiness=False, liveness=False)
    pod.run(15)
    assert (False, 0) == (pod.ready, pod.restarts)
    pod.run(15)
    assert (False, 1) == (pod.started, pod.restarts)
