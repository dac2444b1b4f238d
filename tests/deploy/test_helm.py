"""deploy/helm: the chart renders the objects of deploy/kubernetes, and refuses invalid values.

The real helm lints and renders it, without a cluster. The kustomize files have detailed tests, so this
compares the chart with them.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from testing.service import REPOSITORY

from ..docs.documents import blocks
from .chart_objects import plain
from .helm import CHART, EXAMPLES, README, helm, objects, parsed, templated, written
from .kustomize import OLDEST, OVERLAYS, objects_of, rendered
from .test_kubernetes import as_the_operator_reads

each_example = pytest.mark.parametrize("example", [(), *((name,) for name in EXAMPLES)], ids=str)


# Checks by helm and by the schemas of the API


@each_example
def test_helm_lint_accepts_the_chart(example: tuple[str, ...]) -> None:
    """`helm lint --strict`, in which a warning is an error."""
    done = helm("lint", "--strict", CHART, *(word for name in example for word in ("-f", EXAMPLES[name])))
    assert 0 == done.code, done.out + done.err


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@each_example
def test_the_api_takes_every_object(example: tuple[str, ...], version: str) -> None:
    """In the oldest version of Kubernetes that the chart allows, and in the newest one that has a schema."""
    found = objects(*example, version=version)
    assert len(found) == len(found.by_name) > 4
    for each in found:
        assert "ratelimit" == each["metadata"]["namespace"]
        if each["apiVersion"].startswith("monitoring.coreos.com/"):
            assert each == as_the_operator_reads(each)
        else:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    """It lacks the ContainerResource metrics of the autoscaler."""
    major, minor = OLDEST.split(".")
    done = templated(version=f"{major}.{int(minor) - 1}")
    assert (1, True) == (done.code, f"requires kubeVersion: >={OLDEST}.0-0" in done.err)


@pytest.mark.parametrize(
    "example", [(), ("managed-redis",), ("single",)], ids=["base", "managed-redis", "single"]
)
def test_the_chart_renders_the_objects_of_kustomize(example: tuple[str, ...]) -> None:
    """With default values it equals the base, with the values of an example the overlay of the same name,
    field by field.
    """
    assert plain(objects_of(*(example or ("base",)))) == plain(objects(*example))


def test_the_redis_of_the_chart_is_that_of_kustomize() -> None:
    """Except for its name, which starts with the release's, and the hash that restarts it after a change of
    redis.conf.
    """
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


def test_the_monitoring_of_the_chart_is_that_of_kustomize() -> None:
    """The alerts and dashboards are the same; the labels are those of the example, and the job is named by a
    label.
    """
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
def test_the_notes_have_commands_and_missing_requirements(
    telling: Path, tmp_path: Path, values: dict[str, Any], warnings: list[str]
) -> None:
    """They have the commands of the README of deploy/kubernetes, and a warning for each missing
    requirement.
    """
    done = templated(written(values, tmp_path), chart=telling)
    assert (0, "") == (done.code, done.err)
    notes_text = parsed(done.out).one("Notes", "told")["text"]
    every = [NO_REDIS, NO_WAY, NO_GATEWAY, NO_POLICY]
    assert warnings == [warning for warning in every if warning in notes_text]
    assert "ratelimit.ratelimit.svc:8081, as HTTP/2 without TLS" in notes_text
    assert "ratelimit-service ask token-budgets client_ns=apps --hits 140" in notes_text


# The chart as a file


def test_a_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    """The package has files instead of links, and no examples."""
    done = helm("package", CHART, "--destination", tmp_path)
    assert (0, "") == (done.code, done.err)
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        assert not any("examples" in name for name in archive.getnames())
    values = (EXAMPLES["redis"], EXAMPLES["monitoring"])
    assert parsed(templated(*values, chart=package).out).by_name == parsed(templated(*values).out).by_name


def test_the_chart_has_the_version_of_the_package() -> None:
    """The image has the same version: the chart and the image are released together."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert (version, version) == (chart["version"], chart["appVersion"])


def test_the_values_in_the_readme_are_valid(tmp_path: Path) -> None:
    """Each block of values in it."""
    shown = [block for block in blocks(README) if block.info == "yaml"]
    assert shown
    for number, block in enumerate(shown):
        directory = tmp_path / str(number)
        directory.mkdir()
        done = templated(written(yaml.safe_load(block.text), directory))
        assert (0, "") == (done.code, done.err), block.text


def test_every_example_is_in_the_readme() -> None:
    """With its purpose."""
    listed = re.findall(r"^\| \[`(\S+)`\]\(\S+\) \| .+ \|$", README.read_text(), re.MULTILINE)
    assert sorted(f"{name}.yaml" for name in EXAMPLES) == sorted(listed)
