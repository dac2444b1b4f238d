"""Objects of gateways, checked against the types into which the gateways read them.

The Go types of Envoy Gateway, Istio, Contour and the Gateway API read their own objects (tools/kinds); an
unknown field is an error. Types that are in no package are compared with lists of their fields, from the
sources of kgateway (June 2026), Emissary 3 and Envoy AI Gateway 1.1.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.service import REPOSITORY

from .gateways import DEPLOY, Object, objects
from .test_agentgateway_files import strangers

FOLDERS = [
    path for path in (DEPLOY / name for name in ("istio", "kgateway", "contour", "emissary", "envoy-gateway", "envoy-ai-gateway"))
    if path.exists()
]  # fmt: skip

READ = {
    "gateway.envoyproxy.io/v1alpha1",
    "projectcontour.io/v1",
    "projectcontour.io/v1alpha1",
    "networking.istio.io/v1alpha3",
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
}
"""The APIs that tools/kinds knows."""

OF_KUBERNETES = {"v1", "apps/v1", "policy/v1", "kustomize.config.k8s.io/v1beta1"}

META = {"name": None, "namespace": None}
REF = {"name": None, "namespace": None, "group": None, "kind": None, "port": None}
ENTRY = {"type": None, "generic": {"key": None, "value": None}, "header": None}
KNOWN: dict[str, Any] = {
    "GatewayExtension": {
        "rateLimit": {
            "domain": None,
            "grpcService": {"backendRef": REF, "authority": None, "requestTimeout": None, "retry": None},
            "timeout": None,
            "failOpen": None,
            "xRateLimitHeaders": None,
        }
    },
    "TrafficPolicy": {
        "targetRefs": [REF],
        "rateLimit": {"global": {"extensionRef": REF, "descriptors": [{"entries": [ENTRY]}]}},
    },
    "AIGatewayRoute": {
        "parentRefs": [REF],
        "rules": [
            {
                "matches": [{"headers": [{"type": None, "name": None, "value": None}]}],
                "backendRefs": [{**REF, "modelNameOverride": None, "weight": None, "priority": None}],
            }
        ],
        "llmRequestCosts": [{"metadataKey": None, "type": None, "cel": None}],
    },
    "AIServiceBackend": {"schema": {"name": None, "version": None}, "backendRef": REF},
    "QuotaPolicy": {
        "targetRefs": [REF],
        "perModelQuotas": [
            {
                "modelName": None,
                "quota": {"mode": None, "defaultBucket": {"limit": None, "duration": None}},
            }
        ],
    },
    "RateLimitService": dict.fromkeys(
        ["service", "protocol_version", "domain", "timeout_ms", "failure_mode_deny", "tls", "ambassador_id"]
    ),
}


def everything() -> Iterator[tuple[Path, Object]]:
    """Each object of the folders, with its file."""
    for folder in FOLDERS:
        for file in sorted(folder.glob("*.yaml")):
            if file.name not in ("values.yaml", "both.yaml", "kustomization.yaml"):
                for each in objects(file):
                    yield file, each


def read(*each: Object) -> str:
    """The errors of the gateways' types for these objects; empty if they are valid."""
    command = REPOSITORY / "build" / "kinds"
    if not command.exists():
        pytest.skip("there is no build/kinds: `make test` builds it where go is installed")
    done = subprocess.run(
        [command], input=json.dumps(each), capture_output=True, encoding="utf-8", check=False
    )
    assert "" == done.stderr
    return done.stdout


def test_every_object_is_of_a_known_kind() -> None:
    """Either with a type or with a list of fields."""
    unknown = [
        (file.name, each["kind"])
        for file, each in everything()
        if each["apiVersion"] not in READ | OF_KUBERNETES and each["kind"] not in KNOWN.keys() | {"Mapping"}
    ]
    assert [] == unknown


def test_the_types_of_gateways_read_every_object() -> None:
    """No unknown field, and no value of another type."""
    found = [each for _, each in everything() if each["apiVersion"] in READ]
    assert len(found) > 4
    assert "" == read(*found)


def test_a_field_that_a_type_does_not_have_is_found() -> None:
    """At any depth, in objects of each API."""
    found = {each["kind"]: each for _, each in everything() if each["apiVersion"] in READ}
    for each in found.values():
        spoilt = copy.deepcopy(each)
        spoilt["spec"]["misspelt"] = 1
        assert "misspelt" in read(spoilt)
    proxy = copy.deepcopy(found["HTTPProxy"])
    proxy["spec"]["routes"][0]["rateLimitPolicy"]["global"]["descriptors"][0]["entries"][0][
        "genericKeys"
    ] = {}
    assert "genericKeys" in read(proxy)


@pytest.mark.parametrize("kind", KNOWN)
def test_a_kind_without_a_type_has_only_fields_that_its_gateway_knows(kind: str) -> None:
    """Each also has a name and a namespace."""
    found = [each for _, each in everything() if each["kind"] == kind]
    for each in found:
        shape = {"apiVersion": None, "kind": None, "metadata": META, "spec": KNOWN[kind]}
        assert [] == list(strangers(each, shape))
    assert found


def test_the_labels_of_a_mapping_are_those_that_emissary_reads() -> None:
    """A list of groups; each has a name and a list of labels of one kind."""
    (mapping,) = [each for _, each in everything() if each["kind"] == "Mapping"]
    kinds = {
        "generic_key": {"key", "value"},
        "request_headers": {"key", "header_name", "omit_if_not_present"},
        "remote_address": {"key"},
    }
    for groups in mapping["spec"]["labels"].values():
        for group in groups:
            ((_, labels),) = group.items()
            for label in labels:
                ((kind, fields),) = label.items()
                assert fields.keys() <= kinds[kind]
    assert {"hostname", "prefix", "service", "labels"} == mapping["spec"].keys()
