"""deploy/agentgateway: the policies have only fields of the gateway, and the rules match their
descriptors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.document import Document
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources import manifests
from ratelimit_service.sources.yaml_text import read_all

from .agentgateway import CONFIG, FOLDER, POLICIES, REQUESTS, RULES, TOKENS, Everything, policy_of

each_policy = pytest.mark.parametrize("file", [*POLICIES, CONFIG], ids=lambda file: file.parent.name)


def documents(file: Path) -> list[Document]:
    """The configuration files in a file, as the service reads them."""
    found, problems = manifests.expand(read_all(file.name, file.read_bytes()))
    assert [] == problems
    return found


# The fields of the gateway, from its types: controller/api/v1alpha1 and schema/config.json of agentgateway.

REF = {"kind": None, "name": None, "namespace": None, "port": None}
TARGET = {"group": None, "kind": None, "name": None}
ENDS = {"tcp": {"connectTimeout": None}, "http": {"requestTimeout": None}}
JWKS = {"remote": {"jwksPath": None, "backendRef": REF}}
POLICY: dict[str, Any] = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name": None, "namespace": None},
    "spec": {
        "targetRefs": [TARGET],
        "backend": ENDS,
        "traffic": {
            "jwtAuthentication": {
                "mode": None,
                "providers": [{"issuer": None, "audiences": [None], "jwks": JWKS}],
            },
            "transformation": {"request": {"set": [{"name": None, "value": None}]}},
            "rateLimit": {
                "global": {
                    "backendRef": REF,
                    "domain": None,
                    "failureMode": None,
                    "descriptors": [
                        {"entries": [{"name": None, "expression": None}], "unit": None, "cost": None}
                    ],
                }
            },
        },
    },
}
STANDALONE: dict[str, Any] = {
    "llm": {
        "port": None,
        "policies": {
            "jwtAuth": {"mode": None, "issuer": None, "audiences": [None], "jwks": {"file": None}},
            "remoteRateLimit": {
                "host": None,
                "domain": None,
                "failureMode": None,
                "policies": {**ENDS, "tcp": {"connectTimeout": None, "keepalives": {}}},
                "descriptors": [{"entries": [{"key": None, "value": None}], "type": None, "cost": None}],
            },
        },
        "models": [{"name": None, "provider": None, "params": {"apiKey": None}}],
    }
}


def strangers(value: Any, known: Any, path: str = "") -> Iterator[str]:
    """Return the paths in `value` that are not in `known`, in which a set has the valid values of a field."""
    if isinstance(known, dict) and isinstance(value, dict):
        for key, below in value.items():
            if key in known:
                yield from strangers(below, known[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(known, list) and isinstance(value, list):
        for each in value:
            yield from strangers(each, known[0], path)
    elif isinstance(value, dict | list) or (known is not None and value not in known):
        yield path


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.parent.name)
def test_a_policy_has_only_fields_that_the_gateway_knows(file: Path) -> None:
    """It refers to the Service as deployed, and to the Gateway of the README."""
    policy = yaml.safe_load(file.read_text())
    assert [] == list(strangers(policy, POLICY))
    assert ("agentgateway.dev/v1alpha1", "AgentgatewayPolicy") == (policy["apiVersion"], policy["kind"])
    assert [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"}] == policy["spec"][
        "targetRefs"
    ]
    limits = policy["spec"]["traffic"]["rateLimit"]["global"]
    service = {"kind": "Service", "name": "ratelimit", "namespace": "ratelimit", "port": 8081}
    assert (service, "FailClosed") == (limits["backendRef"], limits["failureMode"])


def test_the_other_files_have_only_fields_that_the_gateway_knows() -> None:
    """The configuration without Kubernetes, and the policy of the Service.

    A tcp policy without `keepalives` is refused.
    """
    standalone = yaml.safe_load(CONFIG.read_text())
    assert [] == list(strangers(standalone, STANDALONE))
    assert "keepalives" in standalone["llm"]["policies"]["remoteRateLimit"]["policies"]["tcp"]
    manifest, grant = filter(None, yaml.safe_load_all((FOLDER / "service.yaml").read_text()))
    assert [] == list(strangers(manifest, POLICY))
    assert ("ReferenceGrant", manifest["spec"]["targetRefs"]) == (grant["kind"], grant["spec"]["to"])


# Policies and the rules beside them


@pytest.mark.parametrize("file", RULES.values(), ids=RULES)
def test_the_rules_are_loaded_without_a_warning(file: Path) -> None:
    """By the loader of the service, from their ConfigMap."""
    assert () == load(documents(file)).warnings


def test_the_rules_can_be_served_together() -> None:
    """Each folder has its own domain. The one without Kubernetes is for another gateway."""
    files = [file for name, file in RULES.items() if name != "standalone"]
    assert len(files) == len(load([each for file in files for each in documents(file)]).domains)


@each_policy
@pytest.mark.parametrize("who", ["dba", "unknown"])
def test_every_descriptor_matches_a_rule(file: Path, who: str) -> None:
    """The keys of a policy are those of its rules. An unknown value matches a rule, or the domain refuses
    it.
    """
    loaded = load(documents(RULES[file.parent.name]))
    tree = RuleTree(loaded.domains)
    policy = policy_of(file)
    (domain,) = loaded.domains
    assert policy.domain == domain.name
    for descriptor in policy.descriptors:
        made = descriptor.made(Everything(who))
        assert made is not None
        entries = tuple(Entry(entry.key, entry.value) for entry in made.entries)
        closed = who == "unknown" and domain.deny_unmatched
        assert closed or tree.match(policy.domain, entries), entries


@each_policy
def test_requests_and_tokens_never_share_a_counter(file: Path) -> None:
    """Otherwise, a descriptor of requests and one of tokens with the same entries would be counted
    together.
    """
    seen: dict[str, set[Any]] = {REQUESTS: set(), TOKENS: set()}
    for descriptor in policy_of(file).descriptors:
        # Constants distinguish descriptors; values from callers do not.
        constant = [value if value.startswith('"') else "" for _, value in descriptor.entries]
        names = [name for name, _ in descriptor.entries]
        seen[descriptor.unit].add(tuple(zip(names, constant, strict=True)))
    assert set() == seen[REQUESTS] & seen[TOKENS]


@each_policy
def test_no_entry_can_be_missing(file: Path) -> None:
    """If an expression fails, the gateway makes no call, and nothing is limited, so each has a default."""
    for descriptor in policy_of(file).descriptors:
        for _, expression in descriptor.entries:
            assert re.fullmatch(r'"[^"]+"|default\(.+, "unknown"\)', expression), expression
