"""deploy/kubernetes/README.md: kustomize and the API accept the files that it shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from ratelimit_service.settings.table import load_settings

from ..docs.documents import blocks
from .kustomize import KUBERNETES, OLDEST, README, Objects, rendered

RULES = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "ratelimit-config", "namespace": "ratelimit"},
    "data": {"config.yaml": "domain: mine"},
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """A new overlay next to a copy of the folder, with both files of the README."""
    copy = tmp_path_factory.mktemp("copy") / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    (copy / "mine").mkdir()
    shown = {
        block.text.split()[1]: block.text for block in blocks(README) if block.text.startswith("# mine/")
    }
    assert {"mine/kustomization.yaml", "mine/tls.yaml"} == shown.keys()
    for name, text in shown.items():
        (copy / name).write_text(text)
    (copy / "mine" / "ratelimit-config.yaml").write_text(yaml.safe_dump(RULES))
    kustomization = copy / "mine" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text() + "  - path: tls.yaml\n")
    return rendered(copy / "mine")


def test_the_api_accepts_the_overlay_of_the_readme(mine: Objects) -> None:
    """The API refuses a probe with two handlers: `grpc: null` removes the first one."""
    for each in mine:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert 1 == len({"grpc", "httpGet", "tcpSocket"} & mine.container[probe].keys())


def test_the_overlay_changes_only_the_documented_parts(mine: Objects) -> None:
    """The image, the gateways, the rules, a setting, and TLS, in the only container."""
    assert "registry.example.com/platform/ratelimit-service:0.2.0" == mine.container["image"]
    gateways = mine.one("NetworkPolicy")["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
    assert [["my-gateways"]] == [each["values"] for each in gateways["matchExpressions"]]
    assert RULES["data"] == mine.one("ConfigMap", "ratelimit-config")["data"]
    settings = load_settings(mine.environment)
    assert ("deny", True, "redis") == (
        settings.store_failure_mode,
        settings.grpc_server_use_tls,
        settings.backend_type,
    )


def test_the_certificate_is_mounted_where_the_service_expects_it(mine: Objects) -> None:
    """In the directory where the Secret is mounted."""
    settings = load_settings(mine.environment)
    mounts = {mount["name"]: mount["mountPath"] for mount in mine.container["volumeMounts"]}
    files = (settings.grpc_server_tls_cert, settings.grpc_server_tls_key)
    assert {mounts["tls"]} == {str(Path(file).parent) for file in files}


def test_every_folder_is_in_the_table() -> None:
    """With its purpose."""
    folders = ["base", *sorted(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())]
    text = README.read_text()
    assert [] == [folder for folder in folders if f"| [`{folder}`]({folder}) | " not in text]
