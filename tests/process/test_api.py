"""The API of deployed processes: two replicas over each store, a store that fails, TLS and tokens in
files.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ratelimit_service.inspection.listing import STILL_READING
from testing.certificates import Authority
from testing.redis_fleets import RedisSentinels
from testing.redis_servers import RedisServer
from testing.service import Caller, Service, calling, run
from testing.waiting import PATIENCE, wait_for

from .conftest import write

ADMIN = "admin-0123456789"
RULES = """
domain: d
descriptors:
  - key: team
    rate_limits: [{unit: year, tokens_per_unit: 100}, {unit: month, tokens_per_unit: 100}]
  - {key: user, rate_limit: {unit: year, requests_per_unit: 5}}
"""
OK, OVER = 1, 2


class Operator:
    """A person with a token at one replica."""

    def __init__(self, service: Service, token: str = ADMIN) -> None:
        self.client = httpx.Client(
            base_url=f"http://{service.debug}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=PATIENCE,
        )

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request, and repeat it if the API responds with a pause, because tests poll often, or has
        not found all buckets within its time.
        """
        while True:
            answer = self.client.request(method, path, **more)
            if answer.status_code == 429:
                time.sleep(int(answer.headers["retry-after"]))
            elif STILL_READING not in answer.text and '"affected_partial":true' not in answer.text:
                return answer

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a GET."""
        answer = self._ask("GET", path, params=parameters)
        assert 200 == answer.status_code, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def send(self, path: str, key: str = "", **body: Any) -> httpx.Response:
        """Send a change, or a preview."""
        fields = {"domain": "d", "descriptor": "team=dba", "reason": "launch", "author": "ana", **body}
        return self._ask("POST", path, json=fields, headers={"idempotency-key": key} if key else {})

    def change(self, path: str, key: str = "", **body: Any) -> dict[str, Any]:
        """Return the answer to a change."""
        answer = self.send(path, key, **body)
        assert 200 == answer.status_code, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def used(self, descriptor: str = "team=dba") -> list[int]:
        """Return the used amount in each window of a bucket."""
        answer = self._ask("POST", "/bucket", json={"domain": "d", "descriptor": descriptor})
        return [window["used"] for window in answer.json()["windows"]]


@contextmanager
def replicas(environment: Mapping[str, str], count: int = 2) -> Iterator[list[tuple[Operator, Caller]]]:
    """Serve replicas with one environment."""
    with ExitStack() as stack:
        services = [stack.enter_context(Service({**environment, "ADMIN_TOKEN": ADMIN})) for _ in range(count)]
        operators = [Operator(service) for service in services]
        for operator in operators:
            stack.enter_context(operator.client)
        yield [
            (operator, stack.enter_context(calling(service.grpc)))
            for operator, service in zip(operators, services, strict=True)
        ]


@pytest.fixture(params=["redis", "sentinel", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of each store that replicas share."""
    if request.param == "redis":
        yield {"REDIS_URL": request.getfixturevalue("redis_url")}
    elif request.param == "cluster":
        yield {"REDIS_TYPE": "CLUSTER", "REDIS_URL": request.getfixturevalue("redis_cluster").url}
    else:
        with RedisSentinels() as sentinels:
            yield {"REDIS_TYPE": "SENTINEL", "REDIS_URL": sentinels.url}


def code(caller: Caller, team: str = "dba") -> int:
    """Return the code of a check."""
    return caller.ask("d", "team", team).overall_code


def wait_for_code(caller: Caller, wanted: int, team: str = "dba") -> None:
    """Wait until a check has this code."""
    wait_for(f"the code {wanted}", lambda: code(caller, team) == wanted)


def test_changes_and_previews_work_across_replicas_of_each_store(
    tmp_path: Path, store: dict[str, str]
) -> None:
    """A change on one replica is in force on the other, and a preview of one is confirmed on the other. Under
    traffic, no charge is lost or counted twice.
    """
    config = str(write(tmp_path / "d.yaml", RULES))
    with replicas({**store, "CONFIG_PATH": config}) as ((ana, first), (bob, second)):
        for team in ("dba", "dbb", "ops"):
            first.ask("d", "team", team, hits=100)
        assert (OVER, OVER) == (code(first), code(second))

        stop, charged = threading.Event(), [0]

        def charge() -> None:
            while not stop.is_set():
                second.ask("d", "team", "busy", hits=1)
                charged[0] += 1

        traffic = threading.Thread(target=charge)
        traffic.start()
        try:
            made = ana.change("/top-up", "k1", amount=20)
            wait_for_code(second, OK)
            again = bob.change("/top-up", "k1", amount=20)
            assert (True, made["edits"]) == (again["replayed"], again["edits"])
            assert "another change" in bob.send("/top-up", "k1", amount=21).json()["detail"]
            assert [100, 100] == bob.used()

            body: dict[str, Any] = {"descriptor": "*", "amount": 0}
            seen = ana.change("/override", **body, dry_run=True)
            assert (4, False) == (seen["affected"], seen["affected_partial"])
            bob.change("/override", "k2", **body, confirmation=seen["confirmation"])
            for caller in (first, second):
                wait_for_code(caller, OVER)
                assert OVER == caller.ask("d", "user", "new", hits=1).overall_code
            late = ana.send("/override", "k3", **body, confirmation=seen["confirmation"])
            assert (422, True) == (late.status_code, "another change came first" in late.json()["detail"])
            seen = bob.change("/unblock", descriptor="*", dry_run=True)
            ana.change("/unblock", "k4", descriptor="*", confirmation=seen["confirmation"])
            wait_for_code(second, OK)

            body = {"descriptor": "team=d*"}
            seen = bob.change("/reset", **body, dry_run=True)
            done = ana.change("/reset", "k5", **body, confirmation=seen["confirmation"])
            assert ["team=dba", "team=dbb"] == [edit["descriptor"] for edit in done["edits"]]
            assert [100] * 4 == [each["used"] for edit in done["edits"] for each in edit["counters"]]
            first.ask("d", "team", "dbb", hits=7)
            assert bob.change("/reset", "k5", **body, confirmation=seen["confirmation"])["replayed"]
            assert [[0, 0], [7, 7], [100, 100]] == [
                bob.used(f"team={name}") for name in ("dba", "dbb", "ops")
            ]
        finally:
            stop.set()
            traffic.join()
        assert [charged[0]] * 2 == ana.used("team=busy")
        lines = bob.get("/audit")["lines"]
        assert lines == ana.get("/audit")["lines"]
        assert ["k5", "k5", "k4", "k2", "k1"] == [line["key"] for line in lines]
        wait_for("both are in step", lambda: bob.get("/replicas")["in_step"])
        assert 2 == len(ana.get("/replicas")["replicas"])


def test_a_failing_store_is_reported_and_a_change_is_made_once(tmp_path: Path) -> None:
    """The amendments in force are still shown.

    A change is answered with 503, and the same request makes it when the store is back.
    """
    config = str(write(tmp_path / "d.yaml", RULES))
    with RedisServer("--appendonly", "yes") as redis:
        environment = {
            "REDIS_URL": redis.url,
            "CONFIG_PATH": config,
        }
        with replicas(environment, 1) as ((ana, caller),):
            ana.change("/override", "k1", amount=50)
            wait_for("50", lambda: caller.limit("d", "team", "dba") == 50)
            redis.kill()
            refused = ana.send("/top-up", "k2", amount=20)
            assert (503, "urn:ratelimit-service:problem:store-unavailable") == (
                refused.status_code,
                refused.json()["type"],
            )
            assert 503 == ana.client.get("/audit").status_code
            wait_for("unreachable", lambda: not ana.get("/status")["store"]["reachable"])
            assert [50] == [one["amount"] for one in ana.get("/amendments")["amendments"]]
            assert 2 == len(ana.get("/rules")["rules"])
            redis.start()
            made = wait_for("made", lambda: _if_made(ana.send("/top-up", "k2", amount=20)))
            assert not made["replayed"]
            assert ana.change("/top-up", "k2", amount=20)["replayed"]
            wait_for("70", lambda: caller.limit("d", "team", "dba") == 70)


def test_a_change_is_made_once_despite_a_failover(tmp_path: Path) -> None:
    """The same request is repeated until it is answered.

    Both replicas then have the change and all earlier ones in force.
    """
    config = str(write(tmp_path / "d.yaml", RULES))
    with RedisSentinels() as sentinels:
        environment = {
            "REDIS_TYPE": "SENTINEL",
            "REDIS_URL": sentinels.url,
            "CONFIG_PATH": config,
            "REDIS_TIMEOUT": "500ms",
        }
        with replicas(environment) as ((ana, first), (bob, second)):
            ana.change("/override", "k1", descriptor="team=eve", amount=0)
            wait_for_code(second, OVER, "eve")
            wait_for(
                "the replica has the block",
                lambda: sentinels.replica.cli("HLEN", "{amendments}:current").strip() == "3",
            )
            sentinels.primary.kill()
            wait_for("made", lambda: _if_made(ana.send("/top-up", "k2", amount=20)))
            assert bob.change("/top-up", "k2", amount=20)["replayed"]
            for caller in (first, second):
                wait_for("120", lambda caller=caller: caller.limit("d", "team", "dba") == 120)  # type: ignore[misc]
                assert OVER == code(caller, "eve")
            assert ["k2", "k1"] == [line["key"] for line in ana.get("/audit")["lines"]]


def _if_made(answer: httpx.Response) -> dict[str, Any]:
    return answer.json() if answer.status_code == 200 else {}


def test_the_refusals_of_all_workers_are_listed(tmp_path: Path) -> None:
    """One worker answers the API, and queries the others."""
    config = str(write(tmp_path / "d.yaml", RULES))
    with RedisServer() as redis, ExitStack() as stack:
        environment = {
            "REDIS_URL": redis.url,
            "CONFIG_PATH": config,
            "WORKERS": "2",
            "ADMIN_TOKEN": ADMIN,
        }
        service = stack.enter_context(Service(environment))
        callers = [stack.enter_context(calling(service.grpc)) for _ in range(12)]
        callers[0].ask("d", "team", "dba", hits=100)
        for caller in callers:
            assert OVER == code(caller)
        operator = Operator(service)
        with operator.client:
            operator.client.headers.pop("authorization")
            assert len(callers) == len(operator.get("/refusals")["refusals"])
            assert 401 == operator.send("/override", "k", amount=0).status_code
        scrape = httpx.get(f"http://{service.metrics}/metrics", trust_env=False, timeout=60).text
        for endpoint, status in [("/refusals", 200), ("/override", 401)]:
            labels = f'endpoint="{endpoint}",status="{status}"'
            assert f"ratelimit_service_api_requests{{{labels}}} 1" in scrape


def test_tokens_come_from_files_and_the_port_uses_tls(tmp_path: Path) -> None:
    """A changed file is used within a second, without a restart."""
    config = str(write(tmp_path / "d.yaml", RULES))
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    token = write(tmp_path / "token", "first-0123456789\n")
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": config,
        "HTTP_TLS_CERT": certificate,
        "HTTP_TLS_KEY": key,
        "ADMIN_TOKEN_FILE": str(token),
    }
    context = ssl.create_default_context(cafile=authority.write(tmp_path))
    with Service(environment) as service:
        port = service.debug.rpartition(":")[2]

        def you(given: str) -> str:
            headers = {"authorization": f"Bearer {given}"}
            url = f"https://localhost:{port}/api/v1/status"
            answer = httpx.get(url, headers=headers, verify=context, trust_env=False, timeout=60)
            return answer.json()["you"] if answer.status_code == 200 else str(answer.status_code)

        assert ("admin", "401") == (you("first-0123456789"), you("second-0123456789"))
        write(token, "second-0123456789\n")
        wait_for("the new token", lambda: you("second-0123456789") == "admin")
        assert you("first-0123456789") in ("401", "429")
        assert "0123456789" not in service.log


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"ADMIN_TOKEN": "short"}, "ADMIN_TOKEN (not shown) is not a token: give 16 to 1024 printable ASCII"),
        (
            {"ADMIN_TOKEN_FILE": "/nowhere"},
            "ADMIN_TOKEN_FILE cannot be used: /nowhere cannot be read: No such file",
        ),
        ({"ADMIN_TOKEN": ADMIN, "READ_TOKEN": ADMIN}, "READ_TOKEN (not shown) is the token of ADMIN_TOKEN"),
        (
            {"READ_TOKEN": ADMIN, "READ_TOKEN_FILE": "x"},
            'READ_TOKEN_FILE="x" is set together with READ_TOKEN',
        ),
    ],
)
def test_an_invalid_token_stops_the_start(environment: dict[str, str], said: str) -> None:
    """One line reports it, and does not show the token."""
    ended = run("serve", environment={"BACKEND_TYPE": "memory", "LOG_LEVEL": "error", **environment})
    assert (1, True) == (ended.code, ended.err.startswith(said)), ended.err
    assert 1 == ended.err.count("\n")
