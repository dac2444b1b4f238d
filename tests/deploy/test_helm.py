"""deploy/helm: the chart says what deploy/kubernetes says, and refuses values that cannot be meant.

The real helm lints and renders it; no cluster is asked. The kustomize files are tested at length, so that here it is enough that
the chart comes to the same.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ratelimit_service.settings.table import documented, load_settings
from ratelimit_service.settings.unsupported import unsupported
from testing.service import REPOSITORY

from ..docs.documents import blocks
from .helm import CHART, EXAMPLES, README, helm, objects, parsed, templated, written
from .kustomize import OLDEST, OVERLAYS, Object, Objects, objects_of, ports, rendered
from .test_kubernetes import as_the_operator_reads

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

DEFAULTS = {setting.name: setting.default for setting in documented()}

OF_HELM = {
    *("app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"),
    "helm.sh/chart",
}
"""Labels that tell releases apart, and which the kustomize files have no need of."""

each_example = pytest.mark.parametrize("example", [(), *((name,) for name in EXAMPLES)], ids=str)


# What helm and the API say


@each_example
def test_helm_has_nothing_against_it(example: tuple[str, ...]) -> None:
    """`helm lint --strict`, in which a warning is an error."""
    done = helm("lint", "--strict", CHART, *(word for name in example for word in ("-f", EXAMPLES[name])))
    assert 0 == done.code, done.out + done.err


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@each_example
def test_the_api_takes_every_object(example: tuple[str, ...], version: str) -> None:
    """In the oldest version that the chart asks for, and in the newest that there is a schema of."""
    found = objects(*example, version=version)
    assert len(found) == len(found.by_name) > 4
    for each in found:
        assert "ratelimit" == each["metadata"]["namespace"]
        if each["apiVersion"].startswith("monitoring.coreos.com/"):
            assert each == as_the_operator_reads(each)
        else:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    """One without ContainerResource metrics, which the autoscaler wants."""
    major, minor = OLDEST.split(".")
    done = templated(version=f"{major}.{int(minor) - 1}")
    assert (1, True) == (done.code, f"requires kubeVersion: >={OLDEST}.0-0" in done.err)


# What kustomize says


def plain(found: Objects, renamed: Mapping[str, str] = {}) -> dict[str, Object]:
    """Objects without labels of releases and variables that have their default, and with other names where they have some."""
    known: dict[str, Object] = {}
    for each in copy.deepcopy(list(found)):
        if each["kind"] == "Namespace":
            continue  # helm makes it, with --create-namespace
        for labels in _labels(each):
            for name in OF_HELM & labels.keys():
                del labels[name]
        name = each["metadata"]["name"] = renamed.get(each["metadata"]["name"], each["metadata"]["name"])
        spec = each.get("spec", {})
        if "serviceName" in spec:
            spec["serviceName"] = renamed.get(spec["serviceName"], spec["serviceName"])
        spec.get("template", {}).get("metadata", {}).pop("annotations", None)
        pod = spec.get("template", {}).get("spec", {})
        pod.get("volumes", []).sort(key=_name)
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                volume["configMap"] = {"name": renamed.get(*[volume["configMap"]["name"]] * 2)}
        for container in pod.get("containers", []):
            container["volumeMounts"].sort(key=_name)
            if "env" in container:
                environment = {variable["name"]: variable["value"] for variable in container["env"]}
                host, colon, port = environment.get("REDIS_URL", "").partition(":")
                renames = {"REDIS_URL": f"{renamed.get(host, host)}:{port}"} if colon else {}
                given = {**environment, **renames}
                container["env"] = {name: value for name, value in given.items() if value != DEFAULTS[name]}
        known[f"{each['kind']}/{name}"] = each
    return known


def _name(value: Object) -> str:
    return str(value["name"])


def _labels(value: Any) -> Iterator[dict[str, str]]:
    """Everything that is labels, or chooses by them."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("labels", "matchLabels", "selector") and isinstance(below, dict):
                yield below
            yield from _labels(below)
    elif isinstance(value, list):
        for below in value:
            yield from _labels(below)


@pytest.mark.parametrize(
    "example", [(), ("managed-redis",), ("single",)], ids=["base", "managed-redis", "single"]
)
def test_it_comes_to_what_kustomize_comes_to(example: tuple[str, ...]) -> None:
    """The base for the values as they are, an overlay for the values of the same name: object by object, field by field."""
    assert plain(objects_of(*(example or ("base",)))) == plain(objects(*example))


def test_the_redis_beside_it_is_that_of_kustomize() -> None:
    """But for its name, which begins with that of the release, and the hash by which a changed redis.conf restarts it."""
    there = rendered(OVERLAYS / "redis")
    (hashed,) = [
        each["metadata"]["name"]
        for each in there.of("ConfigMap")
        if each["metadata"]["name"].startswith("redis-config-")
    ]
    expected = plain(there, {"redis": "ratelimit-redis", hashed: "ratelimit-redis-config"})
    actual = plain(objects("redis"))
    # A ConfigMap that kustomize generates has no labels.
    assert (
        "redis"
        == actual["ConfigMap/ratelimit-redis-config"]["metadata"].pop("labels")["app.kubernetes.io/name"]
    )
    assert expected == actual


def test_monitoring_is_that_of_kustomize() -> None:
    """The same alerts and dashboards; the labels are those that the example asks for, and the job has its name from a label."""
    there, here = (plain(found) for found in (rendered(OVERLAYS / "monitoring"), objects("monitoring")))
    added = {key: here[key] for key in here.keys() - plain(objects()).keys()}
    release = {"release": "kube-prometheus-stack"}
    for kind in ("ServiceMonitor", "PrometheusRule"):
        labels = added[f"{kind}/ratelimit"]["metadata"]["labels"]
        assert release.items() <= labels.items()
        del labels["release"]
    assert "app.kubernetes.io/name" == added["ServiceMonitor/ratelimit"]["spec"].pop("jobLabel")
    dashboards = added["ConfigMap/ratelimit-dashboards"]["metadata"]["labels"]
    assert "ratelimit" == dashboards.pop("app.kubernetes.io/name")
    assert there == added


# Values


def test_everything_that_has_a_value_is_in_the_schema() -> None:
    """And the other way round, to the last level: a value that is misspelt is refused, and none can be set in vain."""
    assert [] == sorted(_differences(VALUES, SCHEMA, ""))


def _differences(values: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    known = {name: below for name, below in schema["properties"].items() if name != "global"}
    yield from (f"{path}{name} is not in both" for name in values.keys() ^ known.keys())
    for name in values.keys() & known.keys():
        if "properties" in known[name] and name != "settings":
            assert known[name]["additionalProperties"] is False, name
            yield from _differences(values[name], known[name], f"{path}{name}.")


def test_every_setting_can_be_set() -> None:
    """By its name; those that are set elsewhere are refused with where."""
    assert {setting.name for setting in documented()} == SCHEMA["properties"]["settings"]["properties"].keys()


def test_every_value_is_set_by_an_example() -> None:
    """So that the schemas of Kubernetes have seen where it goes."""
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


def test_the_values_that_no_example_sets_go_where_they_belong(tmp_path: Path) -> None:
    """Each is found in the one place that it is for."""
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
def test_counters_in_memory_are_kept_where_they_shall_be(
    tmp_path: Path, persistence: dict[str, Any], volumes: list[str], claims: list[tuple[str, str]]
) -> None:
    """One replica in each case, which ends before the next one begins."""
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


def test_a_release_with_everything_of_its_own_fits_together() -> None:
    """Its settings load, secrets and volumes are mounted where it looks, and its policy opens the ports of its Redis."""
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


def test_releases_in_one_namespace_do_not_meet() -> None:
    """No object of one is an object of the other, and no selector of one finds a pod of the other."""
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
def test_the_policy_opens_the_port_that_the_url_names(tmp_path: Path, url: str, opened: list[int]) -> None:
    """That of each address; Redis' own where it names none."""
    values = {"redis": {"url": url}, "networkPolicy": {"redis": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}}
    policy = parsed(templated(written(values, tmp_path)).out).one("NetworkPolicy", "ratelimit-to-redis")
    assert list(map(int, opened)) == [port["port"] for port in policy["spec"]["egress"][0]["ports"]]


def test_the_ports_are_those_that_the_service_opens() -> None:
    """Under their names, and none of them can be set to another."""
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
    ({"store": "memory", "redis": {"bundled": {"enabled": True}}}, "redis.bundled: nothing counts in it"),
]


@pytest.mark.parametrize("values, complaint", REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_values_that_cannot_be_meant_are_refused(
    tmp_path: Path, values: dict[str, Any], complaint: str
) -> None:
    """With where they are and what would be right; nothing is rendered."""
    done = templated(written(values, tmp_path))
    assert (1, "") == (done.code, done.out)
    assert complaint in done.err


# Notes


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as an object, because `helm template` does not show them."""
    copied = tmp_path_factory.mktemp("notes") / "ratelimit-service"
    shutil.copytree(CHART, copied)
    notes = '{{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}'
    (copied / "templates" / "told.yaml").write_text(f"kind: Notes\nmetadata: {{name: told}}\ntext: {notes}\n")
    return copied


NO_REDIS = "this release has no Redis"
NO_WAY = "WARNING: the NetworkPolicy has no way to redis"
NO_GATEWAY = "WARNING: networkPolicy.gatewayNamespaces is empty"
NO_POLICY = "WARNING: without the NetworkPolicy every pod of the cluster may charge any team"


@pytest.mark.parametrize(
    "values, warnings",
    [
        ({}, [NO_REDIS, NO_WAY]),
        ({"redis": {"bundled": {"enabled": True}}}, []),
        (yaml.safe_load(EXAMPLES["managed-redis"].read_text()), []),
        ({"redis": {"url": "redis.example.com:1"}}, [NO_WAY]),
        ({"store": "memory"}, []),
        ({"store": "memory", "networkPolicy": {"gatewayNamespaces": []}}, [NO_GATEWAY]),
        ({"store": "memory", "networkPolicy": {"enabled": False}}, [NO_POLICY]),
    ],
    ids=["defaults", "bundled", "managed", "no way", "memory", "no gateway", "no policy"],
)
def test_the_notes_say_what_to_try_and_what_is_missing(
    telling: Path, tmp_path: Path, values: dict[str, Any], warnings: list[str]
) -> None:
    """The commands that the README of deploy/kubernetes has, too; a warning for what would keep it from serving."""
    done = templated(written(values, tmp_path), chart=telling)
    assert (0, "") == (done.code, done.err)
    notes_text = parsed(done.out).one("Notes", "told")["text"]
    every = [NO_REDIS, NO_WAY, NO_GATEWAY, NO_POLICY]
    assert warnings == [warning for warning in every if warning in notes_text]
    assert "ratelimit.ratelimit.svc:8081, as HTTP/2 without TLS" in notes_text
    assert "ratelimit-service ask token-budgets client_ns=apps --hits 140" in notes_text


# The chart as a file


def test_a_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    """It has files in place of links, and no examples, which are of the repository."""
    done = helm("package", CHART, "--destination", tmp_path)
    assert (0, "") == (done.code, done.err)
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        assert not any("examples" in name for name in archive.getnames())
    values = (EXAMPLES["redis"], EXAMPLES["monitoring"])
    assert parsed(templated(*values, chart=package).out).by_name == parsed(templated(*values).out).by_name


def test_the_chart_is_of_this_version() -> None:
    """And so is the image that it starts; a release of the one is a release of the other."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert (version, version) == (chart["version"], chart["appVersion"])


def test_the_values_of_the_readme_are_taken(tmp_path: Path) -> None:
    """Each block of values that it shows."""
    shown = [block for block in blocks(README) if block.info == "yaml"]
    assert shown
    for number, block in enumerate(shown):
        directory = tmp_path / str(number)
        directory.mkdir()
        done = templated(written(yaml.safe_load(block.text), directory))
        assert (0, "") == (done.code, done.err), block.text


def test_every_example_is_in_the_readme() -> None:
    """With what it is for."""
    listed = re.findall(r"^\| \[`(\S+)`\]\(\S+\) \| .+ \|$", README.read_text(), re.MULTILINE)
    assert sorted(f"{name}.yaml" for name in EXAMPLES) == sorted(listed)
