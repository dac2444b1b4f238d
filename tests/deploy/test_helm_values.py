"""The values of the chart: each is in the schema, in an example and in the objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ratelimit_service.settings.table import documented, load_settings
from ratelimit_service.settings.unsupported import unsupported

from .helm import CHART, EXAMPLES, objects, parsed, templated, written
from .kustomize import OLDEST, Object, Objects, ports

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


# Values


def test_the_values_and_the_schema_agree() -> None:
    """And vice versa, at every level: a misspelt value is refused, and every value in the schema has an
    effect.
    """
    assert [] == sorted(_differences(VALUES, SCHEMA, ""))


def _differences(values: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    known = {name: below for name, below in schema["properties"].items() if name != "global"}
    yield from (f"{path}{name} is not in both" for name in values.keys() ^ known.keys())
    for name in values.keys() & known.keys():
        if "properties" in known[name] and name != "settings":
            assert known[name]["additionalProperties"] is False, name
            yield from _differences(values[name], known[name], f"{path}{name}.")


def test_every_setting_can_be_set() -> None:
    """By its name. Settings that have another value are refused, with the name of that value."""
    assert {setting.name for setting in documented()} == SCHEMA["properties"]["settings"]["properties"].keys()


def test_every_value_is_set_by_an_example() -> None:
    """So the schemas of Kubernetes check its place."""
    used = [yaml.safe_load(file.read_text()) for file in EXAMPLES.values()]
    unused = set(_paths(VALUES)) - {path for values in used for path in _paths(values)}
    assert {
        "image.digest",
        "rules.existingConfigMap",
        *(
            f"redis.bundled.{name}"
            for name in ("image", "storage", "storageClassName", "maxmemory", "resources")
        ),
        *(
            f"memory.persistence.{name}"
            for name in ("enabled", "storage", "storageClassName", "existingClaim")
        ),
        "service.type",
        *(f"autoscaling.{name}" for name in ("minReplicas", "maxReplicas", "cpu")),
        *("podDisruptionBudget.enabled", "networkPolicy.enabled", "serviceAccount.create"),
        "monitoring.serviceMonitor.interval",
        "monitoring.dashboards.labels",
    } == {path for path in unused if not path.startswith("settings.")}


def _paths(values: Any, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        known = SCHEMA
        for step in f"{path}{name}".split("."):
            known = known.get("properties", {}).get(step, {})
        if isinstance(value, dict) and "properties" in known:
            yield from _paths(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_each_value_without_an_example_has_its_effect(tmp_path: Path) -> None:
    """Each appears exactly where it belongs."""
    bundled = {
        "enabled": True,
        "image": "registry.example.com/redis:8",
        "storage": "5Gi",
        "storageClassName": "fast",
        "maxmemory": "400mb",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    }
    digest = f"sha256:{'0' * 64}"
    values = {
        "image": {"digest": digest},
        "rules": {"existingConfigMap": "mine"},
        "redis": {"bundled": bundled},
        "service": {"type": "LoadBalancer"},
        "autoscaling": {"minReplicas": 3, "maxReplicas": 5, "cpu": "400m"},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "interval": "30s"},
            "dashboards": {"enabled": True, "labels": {"mine": "yes"}},
        },
    }
    found = parsed(templated(written(values, tmp_path)).out)
    for each in found:
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(each, OLDEST, strict=True)
    assert f"ratelimit-service@{digest}" == found.container["image"]
    deployment, redis = found.one("Deployment"), found.one("StatefulSet", "ratelimit-redis")
    pod = deployment["spec"]["template"]["spec"]
    assert ("mine", "default") == (pod["volumes"][0]["configMap"]["name"], pod["serviceAccountName"])
    assert [] == found.of("PodDisruptionBudget", "NetworkPolicy", "ServiceAccount")
    assert "ConfigMap/ratelimit-config" not in found.by_name
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (claim,) = redis["spec"]["volumeClaimTemplates"]
    assert (bundled["image"], bundled["resources"], "5Gi", "fast") == (
        container["image"],
        container["resources"],
        claim["spec"]["resources"]["requests"]["storage"],
        claim["spec"]["storageClassName"],
    )
    conf = found.one("ConfigMap", "ratelimit-redis-config")["data"]["redis.conf"].splitlines()
    assert ["maxmemory 400mb", "maxmemory-policy noeviction"] == [
        line for line in conf if line.startswith("maxmemory")
    ]
    assert "LoadBalancer" == found.one("Service")["spec"]["type"]
    scaler = found.one("HorizontalPodAutoscaler")["spec"]
    assert (3, 5, "400m") == (
        scaler["minReplicas"],
        scaler["maxReplicas"],
        scaler["metrics"][0]["containerResource"]["target"]["averageValue"],
    )
    assert "30s" == found.one("ServiceMonitor")["spec"]["endpoints"][0]["interval"]
    assert "yes" == found.one("ConfigMap", "ratelimit-dashboards")["metadata"]["labels"]["mine"]


@pytest.mark.parametrize(
    "persistence, volumes, claims",
    [
        ({"enabled": False}, [], []),
        ({"existingClaim": "mine"}, ["mine"], []),
        ({"storage": "1Gi", "storageClassName": "fast"}, ["ratelimit-counters"], [("1Gi", "fast")]),
    ],
    ids=["none", "a claim that is there", "a claim of its own"],
)
def test_counters_in_memory_are_kept_in_the_configured_volume(
    tmp_path: Path, persistence: dict[str, Any], volumes: list[str], claims: list[tuple[str, str]]
) -> None:
    """There is one replica in each case, and it ends before the next one starts."""
    values = {"store": "memory", "memory": {"persistence": persistence}, "replicas": 5}
    found = parsed(templated(written(values, tmp_path)).out)
    spec = found.one("Deployment")["spec"]
    assert (1, {"type": "Recreate"}, []) == (
        spec["replicas"],
        spec["strategy"],
        found.of("HorizontalPodAutoscaler"),
    )
    assert volumes == [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in spec["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert bool(volumes) is bool(load_settings(found.environment).memory_snapshot_path)
    assert claims == [
        (claim["spec"]["resources"]["requests"]["storage"], claim["spec"]["storageClassName"])
        for claim in found.of("PersistentVolumeClaim")
    ]


def test_the_objects_of_a_customized_release_are_consistent() -> None:
    """Its settings load, secrets and volumes are mounted where the service looks for them, and its policy
    opens the ports of its Redis.
    """
    found = objects("everything")
    environment = {each["name"]: each.get("value", "secret") for each in _container(found)["env"]}
    settings = load_settings(environment)
    assert [] == unsupported(environment)
    # Numbers reach a chart as doubles, of which the default format makes 2e+06.
    assert (2_000_000, 0.9, "deny", "text") == (
        settings.grpc_max_concurrent_calls,
        settings.near_limit_ratio,
        settings.store_failure_mode,
        settings.log_format,
    )
    (pod,) = found.pods
    mounts = {mount["name"]: mount["mountPath"] for mount in _container(found)["volumeMounts"]}
    files = {
        "redis-auth": [settings.redis_auth_file, settings.redis_tls_cacert],
        "tls": [settings.grpc_server_tls_cert, settings.grpc_server_tls_key, settings.grpc_client_tls_cacert],
    }
    for volume, paths in files.items():
        assert {mounts[volume]} == {str(Path(path).parent) for path in paths}
    assert mounts.keys() == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {"config.yaml", "edge.yaml"} == found.one("ConfigMap", "limits-config")["data"].keys()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert {"httpGet", "tcpSocket"} & _container(found)[probe].keys()
        assert "grpc" not in _container(found)[probe]
    (secure, plain, _) = found.one("Service", "limits")["spec"]["ports"]
    assert "appProtocol" not in secure
    assert (settings.grpc_plaintext_port, "kubernetes.io/h2c") == (plain["port"], plain["appProtocol"])
    assert plain["port"] == ports(pod)[plain["targetPort"]]
    (admitted, *_) = found.one("NetworkPolicy", "limits")["spec"]["ingress"]
    assert ["grpc", "grpc-plaintext"] == [port["port"] for port in admitted["ports"]]
    (way,) = found.one("NetworkPolicy", "limits-to-redis")["spec"]["egress"]
    assert [6380, 6381] == [port["port"] for port in way["ports"]]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["spec"]["securityContext"].keys()


def _container(found: Objects) -> Object:
    (pod,) = found.pods
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_releases_in_one_namespace_are_independent() -> None:
    """They share no object, and no selector of one finds a pod of the other."""
    one, other = objects("redis"), objects("redis", release="second")
    assert set() == one.by_name.keys() & other.by_name.keys()
    for each in one.of("Service"):
        assert (1, []) == (
            len(one.selected(each["spec"]["selector"])),
            other.selected(each["spec"]["selector"]),
        )
    for each in one.of("Deployment", "StatefulSet", "PodDisruptionBudget"):
        assert [] == other.selected(each["spec"]["selector"]["matchLabels"])
    for each in one.of("NetworkPolicy"):
        assert [] == other.selected(each["spec"]["podSelector"]["matchLabels"])


@pytest.mark.parametrize(
    "url, opened",
    [
        ("redis.example.com", ["6379"]),
        ("redis://redis.example.com:7000/3", [7000]),
        ("mymaster,sentinel-0:26379,sentinel-1:26379", [6379, 26379, 26379]),
    ],
)
def test_the_policy_opens_the_ports_in_the_url(tmp_path: Path, url: str, opened: list[int]) -> None:
    """Those of each address; Redis' default port for an address without one."""
    values = {"redis": {"url": url}, "networkPolicy": {"redis": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}}
    policy = parsed(templated(written(values, tmp_path)).out).one("NetworkPolicy", "ratelimit-to-redis")
    assert list(map(int, opened)) == [port["port"] for port in policy["spec"]["egress"][0]["ports"]]


def test_the_ports_are_those_that_the_service_opens() -> None:
    """With the same names, and no port can be set to another's number."""
    found = objects()
    settings = load_settings(found.environment)
    opened = {"grpc": settings.grpc_port, "metrics": settings.prometheus_address[1], "http": settings.port}
    assert opened == ports(found.pods[0])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stores": "redis"}, "additional properties 'stores' not allowed"),
    ({"redis": {"adress": "x"}}, "additional properties 'adress' not allowed"),
    ({"settings": {"STORE_FAILUR_MODE": "deny"}}, "additional properties 'STORE_FAILUR_MODE' not allowed"),
    ({"store": "memcache"}, "at '/store': value must be one of 'redis', 'memory'"),
    ({"rules": {"more": {"notes.txt": "x"}}}, "at '/rules/more': additional properties 'notes.txt'"),
    ({"rules": {"more": {"config.yaml": "x"}}}, "rules.more: config.yaml is rules.config"),
    ({"autoscaling": {"cpu": "much"}}, "at '/autoscaling/cpu'"),
    ({"securityContext": {"runAsUser": 0}}, "at '/securityContext/runAsUser': minimum: got 0, want 1"),
    ({"settings": {"REDIS_URL": "x:1"}}, "settings.REDIS_URL: set redis.url"),
    ({"settings": {"REDIS_AUTH": "secret"}}, "settings.REDIS_AUTH: set redis.auth.secretName"),
    (
        {"settings": {"REDIS_PERSECOND_AUTH": "x"}},
        "settings.REDIS_PERSECOND_AUTH: it is a secret; use extraEnv",
    ),
    ({"settings": {"GRPC_PORT": 9000}}, "settings.GRPC_PORT: the ports are those of the Service"),
    ({"extraEnv": [{"name": "LOG_FORMAT", "value": "text"}]}, "extraEnv: LOG_FORMAT is set already"),
    ({"tls": {"enabled": True}}, "tls.secretName: name the Secret with tls.crt and tls.key"),
    ({"tls": {"plaintextPort": 8082}}, "tls.plaintextPort: without tls.enabled"),
    ({"redis": {"url": ""}}, "redis.url: name a Redis, or set redis.bundled.enabled"),
    ({"redis": {"url": "redis://:secret@x:1"}}, "redis.url: it has a password"),
    ({"redis": {"auth": {"caKey": "ca.crt"}}}, "redis.auth.caKey: name the Secret"),
    ({"redis": {"tls": True, "bundled": {"enabled": True}}}, "redis.bundled: it has no TLS"),
    (
        {"redis": {"url": "managed:6379", "bundled": {"enabled": True}}},
        "redis.bundled: the counters would be",
    ),
    ({"store": "memory", "redis": {"bundled": {"enabled": True}}}, "redis.bundled: nothing counts in it"),
]


@pytest.mark.parametrize("values, complaint", REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_invalid_values_are_refused(tmp_path: Path, values: dict[str, Any], complaint: str) -> None:
    """The error has the place and a correction; nothing is rendered."""
    done = templated(written(values, tmp_path))
    assert (1, "") == (done.code, done.out)
    assert complaint in done.err
