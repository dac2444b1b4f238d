"""The service with the control plane that Envoy Gateway and Envoy AI Gateway run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.certificates import Authority
from testing.control_plane import limit, resource
from testing.go_control_plane import GoControlPlane, Tls
from testing.service import Caller, Service, calling
from testing.waiting import wait_for

QUICK = {"XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "50ms", "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "100ms"}
LOADED = "configuration loaded"

pytestmark = pytest.mark.e2e


class Files:
    """The certificates of both sides, as Envoy Gateway creates them."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority()
        self.directory = directory
        self.ca = self.authority.write(directory, "ca")
        self.plane = Tls(
            *self.authority.issue("envoy-gateway", "127.0.0.1").write(directory, "plane"), self.ca
        )
        self.ours = self.authority.issue("*.envoy-gateway-system").write(directory, "tls")

    def environment(self, plane: GoControlPlane) -> dict[str, str]:
        """Return the variables that Envoy Gateway sets in the container, except for addresses and Redis."""
        return {
            "BACKEND_TYPE": "memory",
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_SERVER_URL": f"eg={plane.address}",
            "CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit",
            "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
            "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": self.ours[0],
            "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": self.ours[1],
            "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": self.ca,
            "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "envoy-gateway",
            "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
            **QUICK,
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def plane(files: Files) -> Iterator[GoControlPlane]:
    with GoControlPlane(files.plane) as made:
        yield made


def over(plane: GoControlPlane, **settings: str) -> dict[str, str]:
    return {
        "BACKEND_TYPE": "memory",
        "CONFIG_TYPE": "GRPC_XDS_SOTW",
        "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
        "CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit",
        **QUICK,
        **settings,
    }


def wait_for_limit(caller: Caller, domain: str, amount: int) -> None:
    wait_for(
        f"{amount} in {domain}",
        lambda: (
            caller.status(domain, "team", "dba") == "OK" and caller.limit(domain, "team", "dba") == amount
        ),
    )


def of(*domains: str, amount: int = 5) -> list[object]:
    return [resource(domain, limit("team", amount)) for domain in domains]


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_rules_arrive_over_tls_as_envoy_gateway_configures_it(
    plane: GoControlPlane, files: Files, transport: str
) -> None:
    """With TLS 1.3 and certificates on both sides, the set is accepted.

    The same set under another version is not loaded again.
    """
    plane.send(resource("shop/gw/http", limit("team", 5)), version="1")
    with (
        Service({**files.environment(plane), "GRPC_TRANSPORT": transport}) as service,
        calling(service.grpc) as caller,
    ):
        wait_for_limit(caller, "shop/gw/http", 5)
        assert ("envoy-ratelimit", 0) == (plane.wait_for("1").node, plane.asked[0].code)
        assert ("", "") == (plane.asked[0].version, plane.asked[0].nonce)
        for version in "234":
            plane.send(resource("shop/gw/http", limit("team", 5)), version=version)
            plane.wait_for(version)
        plane.send(resource("shop/gw/http", limit("team", 6)), version="5")
        wait_for_limit(caller, "shop/gw/http", 6)
        assert 0 == service.stop()
        assert 2 == len(service.events(LOADED))


def test_repeated_rejections_are_delayed_until_a_correction(plane: GoControlPlane, files: Files) -> None:
    """The cache sends a rejected set again at once.

    The other domains are in force, and the bad one keeps its last good rules.
    """
    with Service(files.environment(plane)) as service, calling(service.grpc) as caller:
        plane.send(resource("a", limit("team", 5)), resource("b", limit("team", 7)), version="1")
        plane.wait_for("1")
        plane.send(resource("a", limit("team", 6)), resource("b", limit("team", 8, 9)), version="2")
        rejected = plane.wait_for("1", error=True)
        assert (3, True) == (
            rejected.code,
            rejected.error.startswith("b: descriptors[0].rate_limit.unit: unknown unit '9'"),
        )
        assert [6, 7] == [caller.limit(domain, "team", "dba") for domain in "ab"]
        began, before = time.monotonic(), len(plane.asked)
        wait_for("another rejection", lambda: len(plane.asked) > before)
        assert len(plane.asked) - before <= 2 + (time.monotonic() - began)
        plane.send(resource("a", limit("team", 6)), resource("b", limit("team", 8)), version="3")
        plane.wait_for("3")
        assert 8 == caller.limit("b", "team", "dba")
        assert 0 == service.metric("ratelimit_service_config_rejected")


def test_another_set_with_an_old_version_comes_into_force(plane: GoControlPlane, files: Files) -> None:
    """Envoy Gateway starts with version 1 after a restart. Until then, the last rules stay in force."""
    plane.send(resource("a", limit("team", 5)), version="1")
    with Service(files.environment(plane)) as service, calling(service.grpc) as caller:
        wait_for_limit(caller, "a", 5)
        plane.kill()
        service.wait_for_event("the control plane is away")
        assert 5 == caller.limit("a", "team", "dba")
        plane.start()
        plane.send(resource("a", limit("team", 6)), version="1")
        wait_for_limit(caller, "a", 6)


def test_partial_sets_after_a_start_of_the_control_plane_remove_no_limit(
    plane: GoControlPlane, files: Files
) -> None:
    """It sends a set after each Gateway that it has translated."""
    configs = [resource(domain, limit("team", 5)) for domain in "abc"]
    plane.send(*configs, version="1")
    with Service(files.environment(plane)) as service, calling(service.grpc) as caller:
        wait_for_limit(caller, "c", 5)
        plane.kill()
        plane.start()
        for number in (1, 2, 3):
            plane.send(*configs[:number], version=f"1{number}")
            plane.wait_for(f"1{number}")
            assert [5, 5, 5] == [caller.limit(domain, "team", "dba") for domain in "abc"]
        assert ["b, c"] == [
            event["domains"] for event in service.everything() if "missing from the set" in event["@message"]
        ]


@pytest.mark.parametrize("absent", [False, True], ids=["with a version", "without"])
def test_an_empty_set_ends_rules_after_their_grace_period(
    plane: GoControlPlane, files: Files, absent: bool
) -> None:
    """On a new call, too: the cache does not answer a request with its own version, or without one."""
    plane.send(resource("a", limit("team", 5)), version="1")
    environment = {**files.environment(plane), "XDS_DOMAIN_GRACE": "2s"}
    with Service(environment) as service, calling(service.grpc) as caller:
        wait_for_limit(caller, "a", 5)
        plane.wait_for("1")  # which comes after the rules are in force
        before = len(plane.asked)
        plane.kill()
        plane.start()
        plane.send_nothing() if absent else plane.send(version="1")
        wait_for("a request, and the answer to the set", lambda: len(plane.asked) >= before + 2)
        assert 5 == caller.limit("a", "team", "dba")
        wait_for("the end of the rules", lambda: caller.limit("a", "team", "dba") == 0)


def test_a_stopping_control_plane_does_not_wait_for_the_service(plane: GoControlPlane, files: Files) -> None:
    """GracefulStop waits for every call; ours ends at GOAWAY, and then connects to the next control plane."""
    plane.send(resource("a", limit("team", 5)), version="1")
    with Service(files.environment(plane)) as service, calling(service.grpc) as caller:
        wait_for_limit(caller, "a", 5)
        assert 0 == plane.leave()
        plane.start()
        plane.send(resource("a", limit("team", 6)), version="1")
        wait_for_limit(caller, "a", 6)


def test_too_frequent_pings_end_a_call_but_remove_no_limit(plane: GoControlPlane, files: Files) -> None:
    """gRPC servers respond with GOAWAY.

    The default of XDS_KEEPALIVE is above their limit of five minutes.
    """
    plane.send(resource("a", limit("team", 5)), version="1")
    environment = {**files.environment(plane), "XDS_KEEPALIVE": "100ms"}
    with Service(environment) as service, calling(service.grpc) as caller:
        event = service.wait_for_event("the control plane is away")
        assert "GOAWAY ENHANCE_YOUR_CALM, too_many_pings" in event["why"]
        assert 5 == caller.limit("a", "team", "dba")
        wait_for("another call", lambda: len({each.stream for each in plane.asked}) > 1)


def test_certificates_are_renewed_with_a_new_ca_without_a_restart(
    files: Files, plane: GoControlPlane
) -> None:
    """The log has the reason why our certificate was refused, and the next attempt uses the new files."""
    plane.send(resource("a", limit("team", 5)), version="1")
    with Service(files.environment(plane)) as service, calling(service.grpc) as caller:
        wait_for_limit(caller, "a", 5)
        plane.kill()
        renewed = Authority()
        renewed.write(files.directory, "ca")
        renewed.issue("envoy-gateway").write(files.directory, "plane")
        plane.start()
        service.wait_for_text(r"(its certificate is refused|unknown ca|certificate unknown|bad certificate)")
        renewed.issue("*.envoy-gateway-system").write(files.directory, "tls")
        plane.send(resource("a", limit("team", 6)), version="2")
        wait_for_limit(caller, "a", 6)


def test_the_silence_of_a_control_plane_about_an_unknown_node_is_logged() -> None:
    """Envoy Gateway has one snapshot, for one node ID."""
    with GoControlPlane(node="another") as plane:
        plane.send(resource("a", limit("team", 5)), version="1")
        with Service(over(plane)) as service:
            wait_for("the request", lambda: plane.asked)
            assert (500, "unhealthy: config") == service.health()


def test_a_set_of_megabytes_comes_into_force() -> None:
    """From 4 MiB on, envoyproxy/ratelimit keeps its old rules."""
    with GoControlPlane() as plane:
        configs = [
            resource(
                f"d{place}", *(limit(f"{'key' * 300}{number}", 5) for number in range(60)), limit("team", 5)
            )
            for place in range(100)
        ]
        assert 5 * 2**20 < sum(len(each.SerializeToString()) for each in configs)
        plane.send(*configs, version="1")
        with Service(over(plane)) as service, calling(service.grpc) as caller:
            plane.wait_for("1")
            assert 5 == caller.limit("d99", "team", "dba")
            plane.send(*configs[:-1], resource("d99", limit("team", 6)), version="2")
            plane.wait_for("2")
            assert 6 == caller.limit("d99", "team", "dba")
            assert 99 * 61 + 1 == service.metric("ratelimit_service_config_rules")
