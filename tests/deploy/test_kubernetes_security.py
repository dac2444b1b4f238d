"""deploy/kubernetes: the permissions of pods, and the network traffic that policies allow."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimit_service.settings.table import load_settings
from testing.service import REPOSITORY

from .kustomize import README, WITH_SERVICE, Object, Objects, objects_of

DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"


@pytest.fixture(params=WITH_SERVICE)
def objects(request: pytest.FixtureRequest) -> Objects:
    """All objects of a configuration with the service; without kubectl, those of the base."""
    return objects_of(request.param)


# Pods


def test_pods_meet_the_restricted_standard(objects: Objects) -> None:
    """By the Pod Security Standard `restricted`, which the namespace enforces.

    The root file system is read-only.
    """
    labels = objects.one("Namespace")["metadata"]["labels"]
    assert "restricted" == labels["pod-security.kubernetes.io/enforce"]
    for pod in (pod["spec"] for pod in objects.pods):
        security = pod["securityContext"]
        assert (True, "RuntimeDefault") == (security["runAsNonRoot"], security["seccompProfile"]["type"])
        assert 0 not in (security["runAsUser"], security["runAsGroup"], security["fsGroup"])
        assert (False, False) == (pod["automountServiceAccountToken"], pod["enableServiceLinks"])
        assert not any(pod.get(host) for host in ("hostNetwork", "hostPID", "hostIPC"))
        for container in pod["containers"]:
            assert {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            } == container["securityContext"]
        for volume in pod["volumes"]:
            assert {"configMap", "secret", "persistentVolumeClaim"} & volume.keys()


def test_the_image_has_this_version_and_its_user(objects: Objects) -> None:
    """It has this version, and runs as the user of the Dockerfile."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"ratelimit-service:{version}" == objects.container["image"]
    security = objects.one("Deployment")["spec"]["template"]["spec"]["securityContext"]
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == user


def test_memory_is_bounded_and_cpu_is_not(objects: Objects) -> None:
    """A throttled process misses deadlines; a process without a memory limit endangers its node."""
    for pod in objects.pods:
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} == resources["requests"].keys()
            assert {"memory"} == resources["limits"].keys()


# The network


def reaching(objects: Objects, pod_name: str) -> Iterator[tuple[str, list[Object]]]:
    """Return each port of a pod that a policy opens, with the allowed peers."""
    for policy in objects.of("NetworkPolicy"):
        if policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == pod_name:
            for rule in policy["spec"].get("ingress", []):
                for port in rule["ports"]:
                    yield port["port"], rule["from"]


def test_only_gateways_reach_grpc_and_only_prometheus_the_metrics(objects: Objects) -> None:
    """Nothing else is open: every kind of pod has a policy, and no policy allows all peers."""
    for pod in objects.pods:
        name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        opened = dict(reaching(objects, name))
        assert {"ratelimit": {"grpc", "metrics"}, "redis": {"redis"}}[name] == opened.keys()
        assert all(peer for peers in opened.values() for peer in peers)
        assert all(peers for peers in opened.values())
    closed = {
        policy["metadata"]["name"]: set(policy["spec"]["policyTypes"])
        for policy in objects.of("NetworkPolicy")
    }
    for pod in objects.pods:
        assert {"Ingress", "Egress"} == closed[pod["metadata"]["labels"]["app.kubernetes.io/name"]]


@pytest.mark.parametrize("name", ["redis", "managed-redis"])
def test_the_service_may_connect_only_to_redis_and_dns(name: str) -> None:
    """DNS and the port of REDIS_URL.

    If an overlay deploys Redis, its Service has that name, and its pods allow the service.
    """
    objects = objects_of(name)
    host, _, port = objects.environment["REDIS_URL"].partition(":")
    ways = [
        (peer, each["port"])
        for policy in objects.of("NetworkPolicy")
        if policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "ratelimit"}
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        for each in rule["ports"]
    ]
    ((peer, opened),) = [way for way in ways if way[1] != 53]
    assert {"UDP", "TCP"} == {
        each["protocol"]
        for rule in objects.one("NetworkPolicy")["spec"]["egress"]
        for each in rule["ports"]
        if each["port"] == 53
    }
    if name == "managed-redis":
        assert int(port) == opened
        assert peer["ipBlock"]["cidr"]
    else:
        service = objects.one("Service", host)
        assert [int(port)] == [each["port"] for each in service["spec"]["ports"]]
        assert objects.selected(service["spec"]["selector"]) == objects.selected(
            peer["podSelector"]["matchLabels"]
        )
        ((_, (let_in,)),) = reaching(objects, host)
        assert objects.selected(let_in["podSelector"]["matchLabels"]) == [
            objects.one("Deployment")["spec"]["template"]
        ]


def test_a_managed_redis_is_used_over_tls_with_a_password_from_a_file() -> None:
    """Every user who may describe the pod would see it in the environment."""
    objects = objects_of("managed-redis")
    settings = load_settings(objects.environment)
    assert settings.redis_tls
    mounts = {mount["name"]: mount["mountPath"] for mount in objects.container["volumeMounts"]}
    file = Path(settings.redis_auth_file)
    assert mounts["redis-auth"] == str(file.parent)
    assert f"--from-literal={file.name}=" in README.read_text()
    assert "REDIS_AUTH" not in objects.environment
