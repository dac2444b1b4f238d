"""The service in place of envoyproxy/ratelimit, with the environment, mount and arguments of deployments of
that image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import ConfigMapMount, Service
from testing.waiting import wait_for

from .conftest import Unique

pytestmark = pytest.mark.e2e

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
LOAD_ERRORS = "ratelimit_service_config_load_error"
OK, OVER = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT


def config(domain: str, *, per_user: int = 3) -> str:
    """The cases of agentgateway's configuration, with windows that do not end during a test."""
    return f"""
domain: {domain}
descriptors:
  - key: remote_address
    rate_limit: {{unit: year, requests_per_unit: 1}}
  - key: path
    value: "/path1"
    rate_limit: {{unit: year, requests_per_unit: 1}}
  - key: path
    value: "/path2"
    rate_limit: {{unit: year, requests_per_unit: 2}}
  - key: X-User-ID
    rate_limit: {{unit: year, requests_per_unit: {per_user}}}
  - key: model
    rate_limit: {{unit: year, requests_per_unit: 23000}}
"""


class Deployment:
    """The service as agentgateway deploys it, and a plain gRPC client."""

    def __init__(self, service: Service, mount: ConfigMapMount, domain: str, channel: grpc.Channel) -> None:
        self.service = service
        self.mount = mount
        self.domain = domain
        self._call = channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )

    def ask(self, key: str, value: str, *, hits: int | None = None) -> pb.RateLimitResponse:
        """Make one call with one entry. Without `hits` it has no hits_addend, and counts 1."""
        request = pb.RateLimitRequest(domain=self.domain)
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=key.encode(), value=value.encode())
        if hits is not None:
            descriptor.hits_addend.value = hits
        answer: pb.RateLimitResponse = self._call(request, timeout=60)
        return answer

    def per_user(self, user: str) -> int:
        """Return the limit in force for a user, by a call that counts nothing."""
        return self.ask("X-User-ID", user, hits=0).statuses[0].current_limit.requests_per_unit

    def update(self, *, per_user: int) -> None:
        """Let kubelet install another version of the ConfigMap, with this limit for users."""
        self.mount.update({"config.yaml": config(self.domain, per_user=per_user)})

    def load_errors(self) -> float:
        """Return the number of failed loads, as Prometheus would scrape it."""
        lines = httpx.get(f"http://{self.service.metrics}/metrics", timeout=60).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{LOAD_ERRORS} "))

    def codes(self, key: str, value: str, *, times: int) -> list[int]:
        """Return the overall codes of this many calls, in order."""
        return [self.ask(key, value).overall_code for _ in range(times)]


@contextmanager
def deployed(
    root: Path, redis_server: RedisServer, domain: str, *, environment: dict[str, str], arguments: list[str]
) -> Iterator[Deployment]:
    """agentgateway's Deployment of the image: its environment, unchanged, and the mount of its ConfigMap."""
    mount = ConfigMapMount(root / "ratelimit" / "config", {"config.yaml": config(domain)})
    service = Service(
        {
            "USE_STATSD": "false",
            "LOG_LEVEL": "debug",
            "RUNTIME_ROOT": str(root),
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "RUNTIME_IGNOREDOTFILES": "true",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": redis_server.address,
            **environment,
        },
        arguments=arguments,
    )
    try:
        with grpc.insecure_channel(service.grpc) as channel:
            yield Deployment(service, mount, domain, channel)
    finally:
        service.kill()


@pytest.fixture(scope="module", params=["verbatim", "arguments", "watch-directory"])
def deployment(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    unique: Unique,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """Ways to run the image: as in agentgateway's tests; with `-config FILE` as in its documentation, which
    the image ignores; and with RUNTIME_WATCH_ROOT=false, without which the image does not notice a changed
    ConfigMap.
    """
    root = tmp_path_factory.mktemp("data")
    file = root / "ratelimit" / "config" / "config.yaml"
    with deployed(
        root,
        redis_server,
        unique("llm"),
        environment={"RUNTIME_WATCH_ROOT": "false"} if request.param == "watch-directory" else {},
        arguments=["-config", str(file)] if request.param == "arguments" else [],
    ) as running:
        yield running


def test_every_value_of_a_bare_key_has_a_counter_of_its_own(deployment: Deployment) -> None:
    """`key: remote_address` without a value limits each address separately."""
    assert [OK, OVER] == deployment.codes("remote_address", "10.0.0.1", times=2)
    assert [OK, OVER] == deployment.codes("remote_address", "10.0.0.2", times=2)


def test_each_listed_value_has_its_own_limit(deployment: Deployment) -> None:
    """/path1 may pass once, /path2 twice, and other paths are not limited."""
    assert [OK, OVER] == deployment.codes("path", "/path1", times=2)
    assert [OK, OK, OVER] == deployment.codes("path", "/path2", times=3)
    assert [OK] * 4 == deployment.codes("path", "/path3", times=4)


def test_keys_are_case_sensitive(deployment: Deployment) -> None:
    """X-User-ID is limited; x-user-id is another key, and is not."""
    assert [OK] * 4 == deployment.codes("x-user-id", "ada", times=4)
    assert not deployment.ask("x-user-id", "ada").statuses[0].HasField("current_limit")


def test_tokens_are_checked_before_and_charged_after(deployment: Deployment) -> None:
    """agentgateway makes two calls: a check with 0 hits counts nothing, and the charge is recorded in
    full.
    """
    check = deployment.ask("model", "gpt-x", hits=0)
    assert (OK, 23000) == (check.overall_code, check.statuses[0].limit_remaining)
    assert 23000 == deployment.ask("model", "gpt-x", hits=0).statuses[0].limit_remaining
    assert OVER == deployment.ask("model", "gpt-x", hits=23017).overall_code
    assert OVER == deployment.ask("model", "gpt-x", hits=0).overall_code


def test_an_updated_configmap_is_loaded_during_calls(deployment: Deployment, unique: Unique) -> None:
    """kubelet updates it twice. No call fails, and each gets the old or the new limit."""
    user = unique("ada")

    def swapped(before: int, after: int) -> bool:
        limit = deployment.per_user(user)
        assert limit in (before, after)
        return limit == after

    for before, after in ((3, 5), (5, 3)):
        assert before == deployment.per_user(user)
        deployment.update(per_user=after)
        wait_for("the new limit", partial(swapped, before, after))


def test_an_invalid_configmap_changes_no_limit(deployment: Deployment, unique: Unique) -> None:
    """The failed load is counted. A corrected file is loaded."""
    user = unique("ada")
    errors = deployment.load_errors()
    broken = config(deployment.domain, per_user=7).replace("year", "fortnight", 1)
    deployment.mount.update({"config.yaml": broken})
    wait_for("a load that fails", lambda: deployment.load_errors() > errors)
    assert 3 == deployment.per_user(user)
    deployment.update(per_user=4)
    wait_for("the repaired file", lambda: deployment.per_user(user) == 4)
    deployment.update(per_user=3)
    wait_for("the file as it was", lambda: deployment.per_user(user) == 3)


def test_the_health_check_is_ok_once_redis_is_reached(deployment: Deployment) -> None:
    """At the path of a Kubernetes probe."""
    url = f"http://{deployment.service.http}/healthcheck"
    wait_for("a healthy service", lambda: httpx.get(url, timeout=60).status_code == httpx.codes.OK)
    assert "OK" == httpx.get(url, timeout=60).text.strip()


def test_sigterm_ends_the_process_with_exit_code_0(
    redis_server: RedisServer, unique: Unique, tmp_path: Path
) -> None:
    """As for a pod that is deleted."""
    with deployed(tmp_path / "data", redis_server, unique("llm"), environment={}, arguments=[]) as deployment:
        assert OK == deployment.ask("X-User-ID", "ada").overall_code
        assert 0 == deployment.service.stop()
