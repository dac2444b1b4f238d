"""Objects of gateways, checked against their CustomResourceDefinitions, and the types into which the gateways
read them.

The definitions of Envoy Gateway, Istio, Contour, Emissary and the Gateway API are applied as the API server
applies them (crds.py), and the Go types of all but Emissary read the objects (tools/kinds). The modules of
kgateway and of Envoy AI Gateway cannot be fetched: their objects are compared with lists of fields and
values, from the sources of kgateway (June 2026) and Envoy AI Gateway 1.1.
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

from .crds import problems, rules, schemas
from .gateways import DEPLOY, Object, objects
from .test_agentgateway_files import strangers

FOLDERS = [
    path
    for name in ("istio", "kgateway", "contour", "emissary", "envoy-gateway", "envoy-ai-gateway")
    if (path := DEPLOY / name).exists()
]

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
ENTRY = {
    "type": {"Generic", "Header", "RemoteAddress", "Path"},
    "generic": {"key": None, "value": None},
    "header": None,
}
KNOWN: dict[str, Any] = {
    "GatewayExtension": {
        "rateLimit": {
            "domain": None,
            "grpcService": {"backendRef": REF, "authority": None, "requestTimeout": None, "retry": None},
            "timeout": None,
            "failOpen": {True, False},
            "xRateLimitHeaders": {"Off", "DraftVersion03"},
        }
    },
    "TrafficPolicy": {
        "targetRefs": [{**REF, "kind": {"Gateway", "HTTPRoute", "GRPCRoute", "ListenerSet"}}],
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
                "quota": {
                    "mode": None,
                    "defaultBucket": {"limit": None, "duration": {"1s", "1m", "1h", "1d"}},
                },
            }
        ],
    },
}
"""Kinds without a definition here: their fields, and the valid values of enumerations as sets."""


def everything() -> Iterator[tuple[Path, Object]]:
    """Return each object in the folders, with its file."""
    for folder in FOLDERS:
        for file in sorted(folder.glob("*.yaml")):
            if file.name not in ("values.yaml", "both.yaml", "kustomization.yaml"):
                for each in objects(file):
                    yield file, each


def read(*each: Object) -> str:
    """Return the errors of the gateways' types for these objects; empty if they are valid."""
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
        if (each["apiVersion"], each["kind"]) not in schemas()
        and each["apiVersion"] not in OF_KUBERNETES
        and each["kind"] not in KNOWN
    ]
    assert [] == unknown


def test_the_definitions_of_gateways_accept_every_object() -> None:
    """Fields, enumerations, patterns, bounds and rules, as the API server checks them."""
    found = [(file, each) for file, each in everything() if (each["apiVersion"], each["kind"]) in schemas()]
    wrong = [(file.name, each["kind"], text) for file, each in found for text in problems(each)]
    assert [] == wrong
    of_gateways = {file.parent.name for file, _ in found}
    assert {path.name for path in FOLDERS} == of_gateways
    evaluated = {rule for _, each in found for rule in rules(schemas()[each["apiVersion"], each["kind"]])}
    assert len(evaluated) > 100


ABSENT = object()
SPOILT: list[tuple[str, str, Any, str]] = [
    ("EnvoyFilter", "spec.configPatches.0.applyTo", "FILTER", "'FILTER' is not one of"),
    ("EnvoyFilter", "spec.configPatches.0.misspelt", 1, "unknown field"),
    ("EnvoyFilter", "spec.targetRefs", [{"group": "x", "kind": "y", "name": "z"}],
        "only one of targetRefs or workloadSelector"),
    ("ReferenceGrant", "spec.from.0.kind", "not a kind", "does not match"),
    ("ReferenceGrant", "spec.to", [], "non-empty"),
    ("ExtensionService", "spec.protocol", "http", "'http' is not one of"),
    ("ExtensionService", "spec.services.0.port", 70_000, "70000 is greater than"),
    ("ContourConfiguration", "spec.rateLimitService.failOpen", "no", "'no' is not of type 'boolean'"),
    ("ContourConfiguration", "spec.rateLimitService.extensionService.name", ABSENT,
        "'name' is a required property"),
    ("HTTPProxy", "spec.routes.0.rateLimitPolicy.global.descriptors.0.entries.0", {"genericKeys": {}},
        "unknown field"),
    ("Mapping", "spec.prefix", ABSENT, "'prefix' is a required property"),
    ("RateLimitService", "spec.protocol_version", "v4", "'v4' is not one of"),
    ("RateLimitService", "spec.service", ABSENT, "'service' is a required property"),
    ("HTTPRoute", "spec.rules.0.matches", [{"path": {"type": "PathPrefix", "value": "api"}}],
        "value must be an absolute path"),
    ("HTTPRoute", "spec.rules.0.matches", [{"path": {"type": "Prefix", "value": "/"}}],
        "'Prefix' is not one of"),
    ("Gateway", "spec.listeners.0.hostname", "UPPER CASE", "does not match"),
    ("Gateway", "spec.listeners.0.tls", {"mode": "Terminate"}, "tls must not be specified for protocols"),
    ("Backend", "spec.endpoints.0.fqdn.port", 70_000, "70000 is greater than"),
    ("Backend", "spec.endpoints.0.unix", {"path": "/x"}, "only one of fqdn, ip or unix"),
    ("EnvoyPatchPolicy", "spec.type", "YAMLPatch", "'YAMLPatch' is not one of"),
    ("BackendTrafficPolicy", "spec.targetRefs", ABSENT, "targetRef"),
    ("BackendTrafficPolicy", "spec.rateLimit.global.rules.0.limit.unit", "Fortnight",
        "'Fortnight' is not one of"),
    ("BackendTrafficPolicy", "spec.rateLimit.global.rules.0.limit.requests", -1,
        "-1 is less than the minimum"),
    ("BackendTrafficPolicy", "spec.rateLimit.global.rules.0.cost",
        {"request": {"from": "Number", "number": 1, "metadata": {"namespace": "a", "key": "b"}}},
     "only one of number or metadata can be specified"),
]  # fmt: skip


def spoil(each: Object, path: str, value: Any) -> Object:
    """Return a copy with another value at a path."""
    made = copy.deepcopy(each)
    *way, last = path.split(".")
    at: Any = made
    for step in way:
        at = at[int(step)] if step.isdecimal() else at[step]
    if value is ABSENT:
        del at[last]
    else:
        at[int(last) if last.isdecimal() else last] = value
    return made


@pytest.mark.parametrize(
    "kind, path, value, text",
    SPOILT,
    ids=[f"{place} {kind} {path}" for place, (kind, path, *_) in enumerate(SPOILT)],
)
def test_an_object_that_the_api_server_would_refuse_is_detected(
    kind: str, path: str, value: Any, text: str
) -> None:
    """For each construct of a definition, and each kind."""
    each = next(each for _, each in everything() if each["kind"] == kind)
    found = problems(spoil(each, path, value))
    assert found
    assert any(text in each for each in found), found


def test_each_kind_with_a_definition_is_in_that_test() -> None:
    """So that no definition is empty."""
    found = {each["kind"] for _, each in everything() if (each["apiVersion"], each["kind"]) in schemas()}
    assert {kind for kind, *_ in SPOILT} == found


def test_the_types_of_gateways_read_every_object() -> None:
    """No unknown field, and no value of another type."""
    found = [each for _, each in everything() if each["apiVersion"] in READ]
    assert len(found) > 4
    assert "" == read(*found)


def test_an_unknown_field_is_detected() -> None:
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
