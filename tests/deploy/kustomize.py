"""deploy/kubernetes as objects: the base as it stands in its files, the overlays as kustomize renders
them.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.service import REPOSITORY

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
OVERLAYS = KUBERNETES / "overlays"
README = KUBERNETES / "README.md"

NAMES = ["redis", "managed-redis", "single", "monitoring"]
"""The overlays."""

WITH_SERVICE = ["base", "redis", "managed-redis", "single"]
"""The configurations with the service."""

OLDEST = "1.30"
"""The oldest supported version of the API, as in the README: the first with ContainerResource metrics."""

Object = dict[str, Any]
Labels = Mapping[str, str]

_OLDEST_KUSTOMIZE = 4
"""The required major version of kustomize: in earlier ones, `resources` could have no directories."""


class Objects:
    """Objects that are applied together."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self._objects = objects

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def by_name(self) -> dict[str, Object]:
        """Return each by "Kind/name"."""
        return {f"{each['kind']}/{each['metadata']['name']}": each for each in self}

    def of(self, *kinds: str) -> list[Object]:
        """Return all objects of these kinds."""
        return [each for each in self if each["kind"] in kinds]

    def one(self, kind: str, name: str = "ratelimit") -> Object:
        """Return the only object of this kind and name."""
        return self.by_name[f"{kind}/{name}"]

    @property
    def pods(self) -> list[Object]:
        """Return the pod templates of the workloads."""
        return [each["spec"]["template"] for each in self.of("Deployment", "StatefulSet")]

    def selected(self, selector: Labels) -> list[Object]:
        """Return the pods with these labels."""
        return [pod for pod in self.pods if selector.items() <= pod["metadata"]["labels"].items()]

    @property
    def container(self) -> Object:
        """Return the container of the service."""
        (container,) = self.one("Deployment")["spec"]["template"]["spec"]["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the service in the Deployment."""
        return {each["name"]: each["value"] for each in self.container["env"]}


def ports(pod: Object) -> dict[str, int]:
    """Return the ports of a pod by name."""
    return {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    }


def written(directory: Path = BASE) -> Objects:
    """Return the objects in the files that a kustomization lists, which are all of the base."""
    resources = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
    files = [directory / name for name in resources if name.endswith(".yaml")]
    return Objects([each for file in files for each in yaml.safe_load_all(file.read_text())])


@functools.cache
def rendered(directory: Path) -> Objects:
    """Return kustomize's output for a directory. Skips the test if neither kubectl nor kustomize is
    installed.
    """
    command = _renderer()
    if command is None:
        pytest.skip(
            "overlays cannot be rendered: neither kubectl (1.21 or newer) nor kustomize (4 or newer) is "
            "installed"
        )
    done = subprocess.run(
        [*command, str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert "" == done.stderr, "kustomize warns"
    return Objects(list(yaml.safe_load_all(done.stdout)))


def objects_of(name: str) -> Objects:
    """Return the objects of the base from its files, without kustomize; those of an overlay are rendered."""
    return written() if name == "base" else rendered(OVERLAYS / name)


@functools.cache
def _renderer() -> tuple[str, ...] | None:
    """Return the command that renders a directory, or None."""
    if shutil.which("kubectl") and _is_new(_kustomize_in_kubectl()):
        return ("kubectl", "kustomize")
    if shutil.which("kustomize") and _is_new(_said("kustomize", "version")):
        return ("kustomize", "build")
    return None


def _kustomize_in_kubectl() -> str:
    try:
        version = json.loads(_said("kubectl", "version", "--client", "--output=json"))
    except ValueError:
        return ""
    return str(version.get("kustomizeVersion", ""))  # older versions do not print it


def _said(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )
    return done.stdout.strip()


def _is_new(version: str) -> bool:
    major = version.removeprefix("v").partition(".")[0]
    return major.isdecimal() and int(major) >= _OLDEST_KUSTOMIZE
