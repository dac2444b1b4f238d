"""The whole service with control planes: rules in force, status, and outages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from testing.certificates import Authority
from testing.control_plane import limit, resource
from testing.service import Caller, Service, calling, port_of, run
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for
from tests.sources.xds.links import serving

from .conftest import rules, write

QUICK = {"XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "50ms", "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "100ms"}


def over_xds(*planes: str, **settings: str) -> dict[str, str]:
    return {
        "BACKEND_TYPE": "memory",
        "CONFIG_TYPE": "GRPC_XDS_SOTW",
        "CONFIG_GRPC_XDS_SERVER_URL": ",".join(planes),
        **QUICK,
        **settings,
    }


@pytest.fixture
def plane() -> Iterator[ThreadedControlPlane]:
    with ThreadedControlPlane() as served:
        yield served


def rlconfig(service: Service) -> list[str]:
    return httpx.get(f"http://{service.debug}/rlconfig", trust_env=False, timeout=60).text.splitlines()


def control_planes(service: Service) -> list[dict[str, Any]]:
    """Return the API's list of control planes."""
    answer = httpx.get(f"http://{service.debug}/api/v1/control-planes", trust_env=False, timeout=60)
    planes: list[dict[str, Any]] = answer.json()["control_planes"]
    return planes


def samples(service: Service, name: str) -> dict[str, float]:
    """The series of a metric, by its labels as written in the scrape."""
    text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
    lines = [line for line in text.splitlines() if line.startswith(f"ratelimit_service_{name}{{")]
    return {line.partition("{")[2].partition("}")[0]: float(line.rpartition(" ")[2]) for line in lines}


def wait_for_limit(caller: Caller, domain: str, amount: int) -> None:
    wait_for(f"{amount} in {domain}", lambda: caller.limit(domain, "team", "dba") == amount)


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_rules_follow_the_control_plane_and_outlast_its_outage(
    plane: ThreadedControlPlane, transport: str
) -> None:
    """The service is not ready before the first set.

    Later, an outage of the control plane removes no limit.
    """
    with (
        Service(over_xds(f"eg={plane.address}", GRPC_TRANSPORT=transport)) as service,
        calling(service.grpc) as caller,
    ):
        assert ((500, "unhealthy: config"), "UNAVAILABLE") == (
            service.health(),
            caller.status("a", "team", "dba"),
        )
        plane.send(resource("a", limit("team", 5)), resource("b", limit("team", 7)))
        wait_for("the first set", lambda: service.health() == (200, "OK"))
        assert [5, 7] == [caller.limit(domain, "team", "dba") for domain in "ab"]
        plane.send(resource("a", limit("team", 6)), resource("b", limit("team", 8, 9)))
        wait_for_limit(caller, "a", 6)
        wait_for("the rejection", lambda: service.metric("ratelimit_service_config_rejected"))
        assert 7 == caller.limit("b", "team", "dba")
        connected, in_force, rejected, *rest = rlconfig(service)
        assert (True, True, 2) == (
            connected.startswith("# xds eg: connected since 20"),
            in_force.startswith("#   in force: generation 2, hash "),
            len(rest) - rest.count(""),
        )
        problem = (
            "b: descriptors[0].rate_limit.unit: unknown unit '9': use one of second, minute, hour, day, "
            "week, month, year"
        )
        assert (f"#   rejected: {problem}", problem) == (rejected, plane.rejections[0])
        (shown,) = control_planes(service)
        expected = {
            "server": "eg",
            "connected": True,
            "error": None,
            "generation": 2,
            "version": "1",
            "stale_since": None,
            "domains": 2,
            "rejected_domains": 1,
            "rejected": [problem],
            "missing": [],
        }
        assert expected == {name: shown[name] for name in expected}
        assert f"hash {shown['hash']}, domains 2, version 1, accepted {shown['accepted_at']}" in in_force
        assert f"# xds eg: connected since {shown['since']}" == connected
        assert {
            'server="eg",state="in_force"': 2,
            'server="eg",state="rejected"': 1,
            'server="eg",state="missing"': 0,
        } == samples(service, "xds_domains")
        plane.stop()
        wait_for("its absence", lambda: samples(service, "xds_connected") == {'server="eg"': 0})
        assert [6, 7] == [caller.limit(domain, "team", "dba") for domain in "ab"]
        stale_since = samples(service, "xds_stale_since_seconds")['server="eg"']
        (shown,) = control_planes(service)
        assert (False, True, 2) == (shown["connected"], bool(shown["error"]), shown["domains"])
        assert int(stale_since) == datetime.fromisoformat(shown["stale_since"]).timestamp() > 1_700_000_000
        plane.start()
        plane.send(resource("a", limit("team", 9)), resource("b", limit("team", 7)))
        wait_for_limit(caller, "a", 9)
        wait_for("no rejection", lambda: not service.metric("ratelimit_service_config_rejected"))
        assert {'server="eg"': 0} == samples(service, "xds_stale_since_seconds")


def test_a_start_without_the_control_plane_uses_the_last_good_set(
    plane: ThreadedControlPlane, tmp_path: Path
) -> None:
    """The set is in force before the ports open, so no call passes without a limit."""
    environment = over_xds(f"eg={plane.address}", XDS_CACHE_DIR=str(tmp_path))
    plane.send(resource("a", limit("team", 5)))
    with Service(environment) as service:
        wait_for("the first set", lambda: service.health() == (200, "OK"))
        wait_for("the file", lambda: list(tmp_path.glob("xds-eg-*[0-9a-f]")))
        assert 0 == service.stop()
    plane.stop()
    with Service(environment) as service, calling(service.grpc) as caller:
        assert ((200, "OK"), 5) == (service.health(), caller.limit("a", "team", "dba"))
        assert any("stale since" in line for line in rlconfig(service))


def test_several_control_planes_and_files_have_their_own_domains(tmp_path: Path) -> None:
    """Each control plane has its own node and TLS settings.

    If two sources have the same domain, the first one takes precedence.
    """
    authority = Authority()
    authority.write(tmp_path, "ca")
    authority.issue("*.envoy-gateway-system").write(tmp_path, "tls")
    context = serving(authority.issue("envoy-gateway"), authority, tmp_path)
    tls = "&".join(
        (
            "use_tls=true&server_tls_san=envoy-gateway",
            *(
                f"{name}={tmp_path / file}"
                for name, file in [
                    ("server_tls_cacert", "ca.crt"),
                    ("client_tls_cert", "tls.crt"),
                    ("client_tls_key", "tls.key"),
                ]
            ),
        )
    )
    with ThreadedControlPlane(context) as eg, ThreadedControlPlane() as ai:
        eg.do(lambda plane: setattr(plane, "nodes", {"envoy-ratelimit"}))
        ai.do(lambda plane: setattr(plane, "nodes", {"envoy-ai-gateway-ratelimit"}))
        eg.send(resource("a", limit("team", 5)), resource("both", limit("team", 1)))
        ai.send(
            resource("ai-gateway-quota", limit("team", 7)),
            resource("both", limit("team", 2)),
            resource("file", limit("team", 3)),
        )
        path = write(tmp_path / "file.yaml", rules("file", 4))
        environment = over_xds(
            f"eg={eg.address}?node_id=envoy-ratelimit&{tls}",
            f"ai={ai.address}",
            CONFIG_TYPE="FILE,GRPC_XDS_SOTW",
            CONFIG_PATH=str(path),
            CONFIG_GRPC_XDS_NODE_ID="envoy-ai-gateway-ratelimit",
        )
        with Service(environment) as service, calling(service.grpc) as caller:
            for domain, amount in [("a", 5), ("ai-gateway-quota", 7), ("both", 1), ("file", 4)]:
                wait_for_limit(caller, domain, amount)
            wait_for(
                "a rejection with both", lambda: len(ai.rejections and ai.rejections[-1].split("\n")) == 2
            )
            assert [
                "both: domain: 'both' has rules at xds eg: both: domain, which take precedence: use another "
                "domain",
                f"file: domain: 'file' has rules at {path}:1, which take precedence: use another domain",
            ] == sorted(ai.rejections[-1].split("\n"))
            assert [] == eg.rejections
            write(path, rules("file", 6))
            wait_for_limit(caller, "file", 6)
            write(path, rules("another", 6))  # the domain is free for the control plane that has it as well
            wait_for_limit(caller, "file", 3)
            eg.stop()
            wait_for_limit(caller, "a", 5)


def test_control_planes_may_take_precedence_over_files(tmp_path: Path, plane: ThreadedControlPlane) -> None:
    """The rules of the files apply until the control plane sends other rules for a domain."""
    path = write(tmp_path / "d.yaml", rules("d", 4))
    environment = over_xds(f"eg={plane.address}", CONFIG_TYPE="grpc_xds_sotw,file", CONFIG_PATH=str(path))
    with Service(environment) as service, calling(service.grpc) as caller:
        assert 4 == caller.limit("d", "team", "dba")
        plane.send(resource("d", limit("team", 5)))
        wait_for_limit(caller, "d", 5)
        write(path, "{domain: d, x: 1}")
        wait_for("the mistake in the file", lambda: any("d.yaml" in line for line in rlconfig(service)))
        plane.send(resource("d", limit("team", 6)))
        wait_for_limit(caller, "d", 6)
        assert 1 == service.metric("ratelimit_service_config_rejected")


def test_overlays_are_read_at_the_start_and_when_they_change(
    tmp_path: Path, plane: ThreadedControlPlane
) -> None:
    """A mistake in an overlay is reported, and the previous overlays stay in force.

    A domain that no source sends causes a log line.
    """
    path = write(
        tmp_path / "over.yaml", "{domain: d, descriptors: [{key: team, rate_limit: {tokens_per_unit: 50}}]}"
    )
    other = write(tmp_path / "other.yaml", "{domain: nowhere, unmatched: deny}")
    plane.send(resource("d", limit("team", 5)))
    environment = over_xds(plane.address, XDS_OVERLAYS=f"{path},{other}", BUDGET_DOMAINS="elsewhere")
    with Service(environment) as service, calling(service.grpc) as caller:
        wait_for("the first set", lambda: service.health() == (200, "OK"))
        assert 50 == caller.limit("d", "team", "dba")
        wait_for("the domains", lambda: len(service.events("no source has a domain")) == 2)
        assert {("elsewhere", "BUDGET_DOMAINS"), ("nowhere", "an overlay")} == {
            (event["domain"], event["named_in"]) for event in service.events("no source has a domain")
        }
        write(path, path.read_text().replace("50", "60"))
        wait_for_limit(caller, "d", 60)
        write(path, "{domain: ")
        wait_for("the mistake", lambda: any(line.startswith("# overlays: ") for line in rlconfig(service)))
        plane.send(resource("d", limit("team", 7)), resource("e", limit("team", 8)))
        wait_for_limit(caller, "e", 8)
        assert 60 == caller.limit("d", "team", "dba")


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"CONFIG_GRPC_XDS_SERVER_USE_TLS": "true", "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "x"},
            "CONFIG_GRPC_XDS_CLIENT_TLS_CERT and CONFIG_GRPC_XDS_CLIENT_TLS_KEY belong together: give both, "
            "or none",
        ),
        ({"CONFIG_GRPC_XDS_SERVER_URL": ""}, "has no address: give host:port, such as localhost:18000"),
    ],
    ids=["pair", "address"],
)
def test_invalid_settings_stop_the_start_in_one_line(settings: dict[str, str], message: str) -> None:
    """Every other invalid setting does the same."""
    ended = run("serve", environment={**over_xds("127.0.0.1:1"), **settings})
    assert (1, True) == (ended.code, message in ended.err), ended.err


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_one_deployment_serves_a_gateway_with_tls_and_one_without(
    tmp_path: Path, plane: ThreadedControlPlane, transport: str
) -> None:
    """Envoy Gateway calls with TLS, Envoy AI Gateway without."""
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    plane.send(resource("a", limit("team", 5)))
    environment = over_xds(
        plane.address,
        GRPC_TRANSPORT=transport,
        GRPC_SERVER_USE_TLS="true",
        GRPC_SERVER_TLS_CERT=certificate,
        GRPC_SERVER_TLS_KEY=key,
        GRPC_PLAINTEXT_PORT="0",
    )
    with Service(environment) as service:
        wait_for("the first set", lambda: service.health() == (200, "OK"))
        plaintext = service.wait_for_event("serving")["grpc_plaintext"]
        with calling(f"127.0.0.1:{port_of(plaintext)}") as caller:
            assert 5 == caller.limit("a", "team", "dba")
        with grpc.secure_channel(f"localhost:{port_of(service.grpc)}", authority.channel()) as channel:
            assert 5 == Caller(channel).limit("a", "team", "dba")
