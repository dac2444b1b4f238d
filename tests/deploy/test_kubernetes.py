"""deploy/kubernetes: what is applied is what the API takes, and its parts fit each other and the service.

No cluster is asked. Objects are held against the API schemas of Kubernetes and of the Prometheus Operator, in
which a field that does not exist is an error; and against each other, as the cluster would put them together.
What the service does with them is asked in test_kubernetes_serving.py, who may do what in
test_kubernetes_security.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from ratelimit_service.settings.table import documented, load_settings
from ratelimit_service.settings.types import read_duration
from ratelimit_service.settings.unsupported import unsupported

from .kustomize import (
    BASE,
    NAMES,
    OLDEST,
    OVERLAYS,
    README,
    WITH_SERVICE,
    Object,
    Objects,
    objects_of,
    ports,
    rendered,
    written,
)

WITH_REDIS = ["base", "redis", "managed-redis"]

LAST_WRITES = 5.0
"""Seconds for the stop: a batch in flight and the journal (REDIS_TIMEOUT each), and the reader of the
decision log."""


@pytest.fixture(params=WITH_SERVICE)
def objects(request: pytest.FixtureRequest) -> Objects:
    """All objects of a configuration with the service; without kubectl, those of the base."""
    return objects_of(request.param)


@pytest.fixture(params=WITH_REDIS)
def with_redis(request: pytest.FixtureRequest) -> Objects:
    """Configurations that count in Redis."""
    return objects_of(request.param)


# The API


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", ["base", *NAMES])
def test_the_api_accepts_every_object(name: str, version: str) -> None:
    """In the oldest version of Kubernetes that the README promises, and in the newest one that has a
    schema.
    """
    objects = objects_of(name)
    assert len(objects) > 1
    for each in objects:
        if each["apiVersion"].startswith("monitoring.coreos.com/"):
            assert each == as_the_operator_reads(each)
        else:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", ["redis", "managed-redis", "single"])
def test_the_api_accepts_the_additions_of_overlays(name: str) -> None:
    """Read from the files, so this is tested without kustomize, too."""
    added = written(OVERLAYS / name)
    assert len(added) > 0
    for each in added:
        kubernetes_validate.validate(each, OLDEST, strict=True)
        assert "ratelimit" == each["metadata"]["namespace"]


def as_the_operator_reads(each: Object) -> Any:
    """Read a custom resource by its schema: an invalid value raises, and an unknown field is dropped."""
    from cloudcoil.models.prometheus_operator import v1  # takes seconds

    return getattr(v1, each["kind"]).model_validate(each).model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )  # fmt: skip


def test_a_field_that_the_api_does_not_have_is_detected() -> None:
    """The schemas are strict: without validation, the API would ignore `httpGets`."""
    deployment = written().one("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGets"] = {"port": 1}
    with pytest.raises(kubernetes_validate.ValidationError, match="httpGets"):
        kubernetes_validate.validate(deployment, OLDEST, strict=True)


def test_a_field_that_the_operator_does_not_have_is_detected() -> None:
    """The models drop it, so the parsed object differs from the file."""
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "m"},
        "spec": {"selector": {}, "endpoints": [{"port": "metrics", "intervall": "10s"}]},
    }
    assert monitor != as_the_operator_reads(monitor)
    del monitor["spec"]["endpoints"][0]["intervall"]  # type: ignore[index]
    assert monitor == as_the_operator_reads(monitor)


def test_kustomize_renders_the_base_unchanged() -> None:
    """So tests and readers may use the files of the base as they are."""
    assert written().by_name == rendered(BASE).by_name


@pytest.mark.parametrize("name", ["base", *NAMES])
def test_all_objects_are_in_one_namespace(name: str) -> None:
    """The namespace is `ratelimit`, where gateways look for the service.

    No two objects have the same name.
    """
    objects = objects_of(name)
    assert len(objects) == len(objects.by_name)
    for each in objects:
        assert "ratelimit" == each["metadata"]["name" if each["kind"] == "Namespace" else "namespace"]


def test_every_overlay_is_tested() -> None:
    """A new overlay without a test fails here."""
    assert sorted(NAMES) == sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))


def test_monitoring_is_applied_beside_the_service() -> None:
    """It has no object of another overlay, so applying one removes nothing of the other."""
    mine = rendered(OVERLAYS / "monitoring").by_name.keys()
    for name in WITH_SERVICE:
        assert set() == mine & objects_of(name).by_name.keys()


def test_monitoring_scrapes_the_service() -> None:
    """The ServiceMonitor selects the Service by its labels, and the port by its name."""
    (monitor,) = rendered(OVERLAYS / "monitoring").of("ServiceMonitor")
    service = written().one("Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    paths = {each["port"]: each.get("path", "/metrics") for each in monitor["spec"]["endpoints"]}
    assert {"metrics": load_settings(written().environment).prometheus_path} == paths
    assert "metrics" in {port["name"] for port in service["spec"]["ports"]}


# Names that gateways rely on


def test_gateways_find_the_service_at_its_expected_name_and_port(objects: Objects) -> None:
    """Service `ratelimit`, port 8081, HTTP/2 without TLS; ConfigMap `ratelimit-config`, key `config.yaml`."""
    ports_ = {port["name"]: port for port in objects.one("Service")["spec"]["ports"]}
    assert (8081, "kubernetes.io/h2c") == (ports_["grpc"]["port"], ports_["grpc"]["appProtocol"])
    assert ["config.yaml"] == list(objects.one("ConfigMap", "ratelimit-config")["data"])


def test_the_port_that_decides_for_any_caller_is_not_in_the_service(objects: Objects) -> None:
    """/json charges for every caller that reaches it, so port 8080 is not in the Service."""
    assert {"grpc", "metrics"} == {port["name"] for port in objects.one("Service")["spec"]["ports"]}


# References between objects


def test_selectors_find_their_pods(objects: Objects) -> None:
    """The selectors of the workload, the Service, the PodDisruptionBudget, the policies and the spreading
    each find one kind of pod.
    """
    for each in objects.of("Deployment", "StatefulSet"):
        assert [each["spec"]["template"]] == objects.selected(each["spec"]["selector"]["matchLabels"])
        for spread in each["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert [each["spec"]["template"]] == objects.selected(spread["labelSelector"]["matchLabels"])
    for each in objects.of("Service"):
        assert [each["metadata"]["name"]] == [
            pod["metadata"]["labels"]["app.kubernetes.io/name"]
            for pod in objects.selected(each["spec"]["selector"])
        ]
    for each in objects.of("PodDisruptionBudget"):
        assert 1 == len(objects.selected(each["spec"]["selector"]["matchLabels"]))
    for each in objects.of("NetworkPolicy"):
        assert 1 == len(objects.selected(each["spec"]["podSelector"]["matchLabels"]))


def test_ports_are_named_as_their_pods_name_them(objects: Objects) -> None:
    """In Services, policies and probes. A misspelt name would leave a Service without endpoints."""
    for each in objects.of("Service"):
        (pod,) = objects.selected(each["spec"]["selector"])
        for port in each["spec"]["ports"]:
            assert port["port"] == ports(pod)[port["targetPort"]]
    for policy in objects.of("NetworkPolicy"):
        (pod,) = objects.selected(policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= ports(pod).keys()
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                to = objects.selected(peer.get("podSelector", {}).get("matchLabels", {"no": "selector"}))
                assert all(port["port"] in ports(pod) for port in rule["ports"] for pod in to)
    container = objects.container
    opened = {port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] in opened


def test_every_mount_has_a_volume_and_its_content(objects: Objects) -> None:
    """Each mount has a volume, and each volume a ConfigMap or a claim. The README creates the Secret."""
    for each in objects.of("Deployment", "StatefulSet"):
        pod = each["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        mounts = [mount for container in pod["containers"] for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == volumes.keys() | claims
        for volume in volumes.values():
            if "configMap" in volume:
                objects.one("ConfigMap", volume["configMap"]["name"])
            elif "persistentVolumeClaim" in volume:
                objects.one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            else:
                assert f"create secret generic {volume['secret']['secretName']}" in README.read_text()
        if "serviceAccountName" in pod:
            assert not objects.one("ServiceAccount", pod["serviceAccountName"])[
                "automountServiceAccountToken"
            ]


def test_only_the_autoscaler_sets_the_replicas(objects: Objects) -> None:
    """It names the Deployment and the container.

    A Deployment with `replicas` would reset the autoscaler's number.
    """
    deployment = objects.one("Deployment")
    scalers = objects.of("HorizontalPodAutoscaler")
    assert ("replicas" in deployment["spec"]) is (not scalers)
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        (metric,) = scaler["spec"]["metrics"]
        assert objects.container["name"] == metric["containerResource"]["container"]


# The service


def test_every_variable_is_a_setting_with_a_valid_value(objects: Objects) -> None:
    """No value causes a warning."""
    environment = objects.environment
    assert set() == environment.keys() - {setting.name for setting in documented()}
    load_settings(environment)
    assert [] == unsupported(environment)
    assert all(isinstance(value, str) for value in environment.values())


def test_the_ports_are_those_that_the_service_opens(objects: Objects) -> None:
    """With the same names."""
    settings = load_settings(objects.environment)
    (pod,) = objects.selected(objects.one("Service")["spec"]["selector"])
    opened = {"grpc": settings.grpc_port, "metrics": settings.prometheus_address[1], "http": settings.port}
    assert opened == ports(pod)
    assert "127.0.0.1" == settings.debug_host


def test_several_replicas_share_redis(objects: Objects) -> None:
    """Several replicas share Redis.

    With the memory store there is one pod at a time, with a file that outlasts it.
    """
    settings = load_settings(objects.environment)
    if objects.of("HorizontalPodAutoscaler"):
        assert "redis" == settings.backend_type
    else:
        spec = objects.one("Deployment")["spec"]
        assert ("memory", 1, {"type": "Recreate"}) == (
            settings.backend_type,
            spec["replicas"],
            spec["strategy"],
        )
        kept = [
            mount["mountPath"] for mount in objects.container["volumeMounts"] if mount["name"] == "counters"
        ]
        assert kept == [str(Path(settings.memory_snapshot_path).parent)]


def test_the_rules_are_mounted_where_the_service_reads_them(objects: Objects) -> None:
    """It is a directory, because a subPath does not follow changes of a ConfigMap, and its name does not
    depend on its content.
    """
    settings = load_settings(objects.environment)
    place = Path(settings.runtime_root, settings.runtime_subdirectory, settings.runtime_appdirectory)
    (mount,) = [mount for mount in objects.container["volumeMounts"] if mount["mountPath"] == str(place)]
    assert {"name", "mountPath", "readOnly"} == mount.keys()
    for pod in objects.pods:
        mounts = [mount for container in pod["spec"]["containers"] for mount in container["volumeMounts"]]
        assert not any("subPath" in mount or "subPathExpr" in mount for mount in mounts)


def test_each_probe_checks_what_its_action_can_repair(objects: Objects) -> None:
    """Liveness and readiness check the process; the startup probe waits for the rules and the store."""
    container = objects.container
    asked = {
        probe: container[f"{probe}Probe"]["grpc"]["service"] for probe in ("startup", "readiness", "liveness")
    }
    assert {"startup": "ratelimit", "readiness": "", "liveness": ""} == asked


def test_a_pod_has_enough_time_to_stop_cleanly(objects: Objects) -> None:
    """The pod is removed from the endpoints, finishes its calls and HTTP requests, and writes its files."""
    pod = objects.one("Deployment")["spec"]["template"]["spec"]
    settings = load_settings(objects.environment)
    longest = settings.shutdown_drain + 2 * settings.shutdown_grace + LAST_WRITES
    assert pod["terminationGracePeriodSeconds"] >= longest


def test_only_a_single_replica_stops_without_draining(objects: Objects) -> None:
    """Its liveness probe fails meanwhile, and must not kill it earlier."""
    drain = load_settings(objects.environment).shutdown_drain
    assert (drain == 0) is not bool(objects.of("HorizontalPodAutoscaler"))
    probe = objects.container["livenessProbe"]
    assert drain < probe["periodSeconds"] * (probe["failureThreshold"] - 1)


def test_connections_are_closed_before_the_autoscaler_acts_again(with_redis: Objects) -> None:
    """Otherwise, the autoscaler would add replicas that get no connections yet."""
    age = with_redis.environment["GRPC_MAX_CONNECTION_AGE"]
    assert "5m" == age
    behavior = with_redis.one("HorizontalPodAutoscaler")["spec"]["behavior"]
    (policy,) = behavior["scaleUp"]["policies"]
    assert read_duration(age) == policy["periodSeconds"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > read_duration(age)
