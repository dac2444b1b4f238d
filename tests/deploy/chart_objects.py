"""Rendered objects of the chart."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ratelimit_service.settings.table import documented

from .kustomize import Object, Objects

DEFAULTS = {setting.name: setting.default for setting in documented()}

OF_HELM = {
    *("app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"),
    "helm.sh/chart",
}
"""Labels that distinguish releases, which the kustomize files do not need."""


def plain(found: Objects, renamed: Mapping[str, str] = {}) -> dict[str, Object]:
    """Return objects without labels of releases and without variables that have their default; `names`
    renames objects.
    """
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
    """Yield every mapping of labels, and every selector."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("labels", "matchLabels", "selector") and isinstance(below, dict):
                yield below
            yield from _labels(below)
    elif isinstance(value, list):
        for below in value:
            yield from _labels(below)
