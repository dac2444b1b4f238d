"""deploy/envoy-gateway: its policies, over a control plane, in front of a real Envoy.

The service has the environment that the gateway gives its container. The control plane is one of the tests;
the tests of xDS use that of both gateways.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ratelimit_service.settings.table import load_settings
from ratelimit_service.settings.unsupported import unsupported
from testing.certificates import Authority
from testing.redis_servers import RedisServer
from testing.service import Service, calling
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from ...e2e.conftest import Counters, Unique, in_one_minute
from ..envoy_gateway import ENVIRONMENT, container, patched
from ..gateways import one
from ..kustomize import OLDEST
from ..test_kinds import read
from .policies import (
    API,
    EG,
    LISTENER,
    POLICIES,
    ROUTE,
    SHOP,
    TOKENS,
    bucket,
    environment,
    rlconfig,
    statuses,
    values,
)

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_tokens_are_checked_and_charged_by_a_header(
    gateway: Callable[..., Any], counters: Counters, unique: Unique, stream: bool
) -> None:
    """The answer that crosses the limit is served, and other teams are not affected."""
    team, other = unique("eg"), unique("eg")
    filters = patched(one(EG / "tokens.yaml", "EnvoyPatchPolicy"), TOKENS.filters)
    body = {"stream": stream, "stream_options": {"include_usage": True}}
    with gateway(filters, TOKENS.per_filter) as client:
        for tokens, used in ((3_000, 3_000), (2_500, 5_500)):
            headers = {"x-team-id": team, "x-mock-tokens": str(tokens)}
            assert 200 == client.post("/v1/chat", headers=headers, json=body).status_code
            counters.wait_until(bucket(LISTENER, (ROUTE, ROUTE), ("rule-0-match-0", team)), used)
        assert [429, 200] == [*statuses(client, 1, x_team_id=team), *statuses(client, 1, x_team_id=other)]


@in_one_minute
def test_other_policies_are_enforced(gateway: Callable[..., Any], counters: Counters, unique: Unique) -> None:
    """A shared limit, one in shadow mode, one from metadata with a default, and one for each address of a
    network.
    """
    claims = {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [
                {
                    "metadata_namespace": "envoy.filters.http.jwt_authn",
                    "value": {"limit": {"requests_per_unit": 5, "unit": "HOUR"}},
                }
            ],
        },
    }
    shared = bucket("shop/limits", ("shop/limits/rule/0", "shop/limits/rule/0"), ("rule-0-match-0",) * 2)
    counters.reset(shared)
    user, org = unique("user"), unique("org")
    with gateway(POLICIES.filters, POLICIES.per_filter) as client:
        assert [200] * 4 + [429] == statuses(client, 5, x_plan="trial")
        assert [200] * 4 == statuses(client, 4, x_user_id=user)
        assert [200] * 3 + [429] == statuses(client, 4, x_org_id=org)
        address = "127.9.8.7"
        assert [200] * 2 == statuses(client, 2, x_forwarded_for=address)
    with gateway([claims, *POLICIES.filters], POLICIES.per_filter) as client:
        assert [200] * 5 + [429] == statuses(client, 6, x_org_id=unique("org"))
    assert [5] == list(counters.of(shared).values())
    assert [4] == list(counters.of(bucket(SHOP, (API, API), ("rule-0-match-0", user))).values())
    network = ("masked_remote_address", "127.0.0.0/8")
    assert [2] == list(counters.of(bucket(SHOP, (API, API), network, ("remote_address", address))).values())


def test_egctl_finds_the_rules(service: Service) -> None:
    """On the debug port, by domain."""
    shown = "\n".join(rlconfig(service))
    for domain in (LISTENER, SHOP, "shop/limits"):
        assert f"{domain}." in shown


def test_every_variable_of_the_container_is_handled() -> None:
    """Those without effect are named at the start. The CA, which upstream does not use either, does not stop
    the start.
    """
    settings = load_settings(ENVIRONMENT)
    assert (19001, True, "redis") == (
        settings.prometheus_address[1],
        settings.grpc_server_use_tls,
        settings.backend_type,
    )
    (warning,) = unsupported(ENVIRONMENT)
    assert warning.startswith("PROMETHEUS_MAPPER_YAML is set, but not supported")


def test_envoy_gateway_accepts_its_configuration() -> None:
    """By its own type. The block in the README has the same, for installations without the chart."""
    configured = values(EG)["config"]["envoyGateway"]
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    image = values(EG)["global"]["images"]["ratelimit"]["image"]
    (block,) = [text for text in _blocks(EG / "README.md") if "rateLimitDeployment" in text]
    shown = yaml.safe_load(block)
    assert image == shown["provider"]["kubernetes"]["rateLimitDeployment"]["container"]["image"]
    assert "" == read({**head, **configured}, {**head, **shown})
    assert "misspelt" in read({**head, **configured, "misspelt": 1})


def _blocks(page: Path) -> list[str]:
    return [each.split("```")[0] for each in page.read_text().split("```yaml\n")[1:]]


def test_the_patched_container_is_valid(tmp_path: Path) -> None:
    """The API accepts it: one handler for each probe, a directory for the rules, and settings that load."""
    configured = values(EG)["config"]["envoyGateway"]["provider"]["kubernetes"]["rateLimitDeployment"]
    made = container(
        {**ENVIRONMENT, **{each["name"]: each["value"] for each in configured["container"]["env"]}}
    )
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(made))
    patch = {**configured["patch"]["value"], **{key: made[key] for key in ("apiVersion", "kind", "metadata")}}
    kustomization = {"resources": ["deployment.yaml"], "patches": [{"patch": yaml.safe_dump(patch)}]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False)
    if done.returncode == 127:
        pytest.skip("there is no kubectl")
    assert (0, "") == (done.returncode, done.stderr)
    deployment = yaml.safe_load(done.stdout)
    kubernetes_validate.validate(deployment, OLDEST, strict=True)
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    handlers = {
        name: sorted({"httpGet", "tcpSocket"} & only[f"{name}Probe"].keys())
        for name in ("startup", "readiness", "liveness")
    }
    assert {"startup": ["httpGet"], "readiness": ["tcpSocket"], "liveness": ["tcpSocket"]} == handlers
    settings = load_settings({each["name"]: each["value"] for each in only["env"]})
    (mount,) = configured["container"]["volumeMounts"]
    assert (mount["mountPath"], {mount["name"]}) == (
        settings.xds_cache_dir,
        {volume["name"] for volume in configured["pod"]["volumes"]},
    )


def test_rules_survive_a_restart_without_a_control_plane(
    certificates: Path, authority: Authority, redis_server: RedisServer, tmp_path: Path
) -> None:
    """With XDS_CACHE_DIR, for which values.yaml mounts a directory."""
    with ThreadedControlPlane() as plane:
        settings = environment(certificates, plane, redis_server.address, XDS_CACHE_DIR=str(tmp_path))
        settings |= {"CONFIG_GRPC_XDS_SERVER_USE_TLS": "false", "GRPC_SERVER_USE_TLS": "false"}
        plane.send(*TOKENS.resources)
        with Service(settings) as service:
            wait_for("the rules", lambda: LISTENER in "\n".join(rlconfig(service)))
            wait_for("the file", lambda: [file for file in tmp_path.iterdir() if file.stat().st_size])
            assert 0 == service.stop()
        plane.stop()
        with Service(settings) as service:
            wait_for("the rules of before", lambda: LISTENER in "\n".join(rlconfig(service)))
            with calling(service.grpc) as caller:
                assert "OK" == caller.status(LISTENER, "team", "dba")
