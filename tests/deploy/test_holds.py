"""deploy/envoy/holds.yaml: holds and charges that count once, through the real Envoy 1.40."""

from __future__ import annotations

import asyncio
import copy
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.clocked import ClockedService
from testing.envoy import EnvoyProcess
from testing.servers import RedisServer
from testing.service import METHOD, REPOSITORY, Service, calling, port_of
from testing.waiting import wait_for

from ..e2e.conftest import Counters

pytestmark = pytest.mark.e2e

FILE = REPOSITORY / "deploy" / "envoy" / "holds.yaml"
NOON = 1_795_262_400

RULES = """
domain: team-budgets
descriptors:
  - {key: team, rate_limit: {name: daily, unit: day, tokens_per_unit: 100}, hold: auto}
"""
LARGE = RULES.replace("100", "100_000").replace("auto", "1000")
"""Each request holds a hundredth of the budget."""

Filters = list[dict[str, Any]]


class PatientLlm:
    """A provider whose answers of 60 tokens wait for `go`; `arrived` counts the requests."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.arrived = 0
        self.port = 0
        ready = threading.Event()

        async def serve() -> None:
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            async with await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1_000) as server:
                self.port = server.sockets[0].getsockname()[1]
                ready.set()
                await self._stopping.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(re.findall(r"content-length: (\d+)", head)[0]))
                status = (re.findall(r"x-status: (\d+)", head) or ["200"])[0]
                self.arrived += 1
                while not self.go.is_set():
                    await asyncio.sleep(0.02)
                body = b'{"usage": {"total_tokens": 60}}' if status == "200" else b"{}"
                fields = f"content-type: application/json\r\ncontent-length: {len(body)}"
                writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode() + body)

    def stop(self) -> None:
        self.go.set()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)


@pytest.fixture
def llm() -> Iterator[PatientLlm]:
    provider = PatientLlm()
    yield provider
    provider.stop()


def configured(services: list[str], llm: PatientLlm) -> dict[str, Any]:
    """The file, with these services and this provider."""
    text: dict[str, Any] = yaml.safe_load(FILE.read_text())
    resources = text["static_resources"]
    for place in (text["admin"]["address"], resources["listeners"][0]["address"]):
        place["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    ports = {"ratelimit": [port_of(service) for service in services], "llm": [llm.port]}
    for cluster in resources["clusters"]:
        cluster["load_assignment"]["endpoints"] = [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}
                        }
                    }
                    for port in ports[cluster["name"]]
                ]
            }
        ]
        # A machine with other work: many requests at once, and slow answers.
        cluster["circuit_breakers"] = {
            "thresholds": [{"max_requests": 5000, "max_connections": 5000, "max_pending_requests": 5000}]
        }
    rate_limit(filters(text))["timeout"] = "10s"
    return text


def filters(text: dict[str, Any]) -> Filters:
    (chain,) = text["static_resources"]["listeners"][0]["filter_chains"]
    found: Filters = chain["filters"][0]["typed_config"]["http_filters"]
    return found


def rate_limit(found: Filters) -> dict[str, Any]:
    (one,) = [each["typed_config"] for each in found if each["name"].endswith(".ratelimit")]
    assert isinstance(one, dict)
    return one


def with_ids(found: Filters) -> None:
    """As the file is."""


def without_ids(found: Filters) -> None:
    """As most gateways are today: nothing comes back."""
    del rate_limit(found)["rate_limits"][1]["actions"][1]


def without_ids_and_releases(found: Filters) -> None:
    """And without usage, nothing is sent."""
    without_ids(found)
    charge = rate_limit(found)["rate_limits"][1]
    charge["hits_addend"] = {"format": "%DYNAMIC_METADATA(llm:total_tokens)%"}


def with_marker(found: Filters) -> None:
    """A marker of the end in place of an id."""
    rate_limit(found)["rate_limits"][1]["actions"][1] = {
        "generic_key": {"descriptor_key": "phase", "descriptor_value": "done"}
    }


@contextmanager
def running(directory: Path, text: dict[str, Any]) -> Iterator[str]:
    envoy = EnvoyProcess(directory, yaml.safe_dump(text))
    try:
        yield envoy.listeners["callers"]
    finally:
        envoy.stop()


def post(address: str, team: str = "dba", **headers: str) -> httpx.Response:
    """One request on a connection of its own."""
    return httpx.post(
        f"http://{address}/v1/chat/completions",
        headers={"x-team-id": team, **{name.replace("_", "-"): value for name, value in headers.items()}},
        json={},
        timeout=60,
        trust_env=False,
    )


def aborted(address: str, llm: PatientLlm, times: int) -> None:
    """Requests whose callers hang up once the provider has them."""
    body = b"{}"
    head = f"POST / HTTP/1.1\r\nhost: x\r\nx-team-id: dba\r\ncontent-length: {len(body)}\r\n\r\n"
    host, _, port = address.partition(":")
    connections = []
    for _ in range(times):
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.sendall(head.encode() + body)
        connections.append(connection)
    wait_for("the provider to have the requests", lambda: llm.arrived >= times)
    for connection in connections:
        connection.close()
    llm.arrived = 0


def warm(service: str) -> None:
    """A bucket that has been used before, and has all of its budget."""
    with calling(service) as gateway:
        gateway.ask("team-budgets", "team", "dba", hits=60)
        gateway.ask("team-budgets", "team", "dba", hits=-60)


@pytest.mark.parametrize(("change", "most"), [(with_ids, 120), (without_ids, 160)])
def test_parallel_requests_do_not_overshoot_together(
    change: Callable[[Filters], None], most: int, redis_server: RedisServer, llm: PatientLlm, tmp_path: Path
) -> None:
    """50 requests of 60 tokens at once on a budget of 100, over two replicas; without holds they spend 3,000."""
    redis_server.cli("FLUSHALL")
    (tmp_path / "rules.yaml").write_text(RULES)
    settings = {
        "CONFIG_PATH": str(tmp_path / "rules.yaml"),
        "REDIS_URL": redis_server.url,
    }
    counters = Counters(redis_server)
    with ExitStack() as stack:
        services = [stack.enter_context(Service(settings)).grpc for _ in range(2)]
        warm(services[0])
        text = configured(services, llm)
        change(filters(text))
        address = stack.enter_context(running(tmp_path, text))
        with ThreadPoolExecutor(50) as pool:
            asked = [pool.submit(post, address) for _ in range(50)]
            wait_for("the refusals", lambda: sum(each.done() for each in asked) + llm.arrived >= 50)
            llm.go.set()
            answers = [each.result() for each in asked]
        served = [answer for answer in answers if answer.status_code == httpx.codes.OK]
        refused = [answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS]
        assert 50 == len(served) + len(refused)
        assert 1 <= len(served) <= most // 60
        wait_for("the charges", lambda: 60 * len(served) == used(counters))
        error = refused[0].json()["error"]
        assert ("rate_limit_exceeded", "in_flight") == (error["code"], error["rate_limit"]["reason"])
        assert 1 <= int(refused[0].headers["retry-after"]) <= 10
        assert "x-should-retry" not in refused[0].headers


def used(counters: Counters) -> int:
    keys = counters.redis.cli("--scan", "--pattern", "{team-budgets|team=dba}:day:*").split()
    return sum(int(counters.redis.cli("GET", key)) for key in keys)


@pytest.mark.parametrize("change", [with_ids, with_marker])
def test_aborted_requests_block_nobody(
    change: Callable[[Filters], None], llm: PatientLlm, tmp_path: Path
) -> None:
    """200 of them on a budget that holds a hundred: each releases its hold when its caller hangs up."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        change(filters(text))
        with running(tmp_path, text) as address:
            for _ in range(4):
                aborted(address, llm, 50)
            llm.go.set()
            wait_for("room", lambda: 200 == post(address).status_code)


def test_aborted_requests_block_nobody_after_the_ttl(llm: PatientLlm, tmp_path: Path) -> None:
    """Without ids and releases their holds wait, and no longer than that."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        without_ids_and_releases(filters(text))
        with running(tmp_path, text) as address:
            for _ in range(2):
                aborted(address, llm, 50)
            llm.go.set()
            assert 429 == post(address).status_code
            service.now = NOON + 60
            assert 200 == post(address).status_code


def test_the_end_of_every_request_releases_its_hold(llm: PatientLlm, tmp_path: Path) -> None:
    """Served, failed at the provider, and refused: nothing is held afterwards, and each is charged once."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        llm.go.set()
        with running(tmp_path, text) as address:
            with httpx.Client(trust_env=False, headers={"x-team-id": "dba"}) as client:
                for status in (200, 500, 503) * 60:
                    answer = client.post(f"http://{address}/", headers={"x-status": str(status)}, json={})
                    assert status == answer.status_code
            wait_for("the charges", lambda: 100_000 - 60 * 60 == remaining(service.address))


def test_what_is_left_after_the_request_is_in_a_header(llm: PatientLlm, tmp_path: Path) -> None:
    """x-ratelimit-remaining is of the check; x-tokens-remaining is less by what this answer has cost."""
    with ClockedService(LARGE, now=NOON) as service:
        llm.go.set()
        with running(tmp_path, configured([service.address], llm)) as address:
            told = []
            for used in (0, 60, 120):
                wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]
                answer = post(address)
                told.append((answer.headers["x-ratelimit-remaining"], answer.headers["x-tokens-remaining"]))
            failed = post(address, x_status="500")
    assert [("100000", "99940"), ("99940", "99880"), ("99880", "99820")] == told
    assert "x-tokens-remaining" not in failed.headers


def charge_of(text: dict[str, Any]) -> dict[str, Any]:
    """The entry of the charge in the filter."""
    found = rate_limit(filters(text))["rate_limits"][1]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("default", "left"), [("-", 99_940), ("", 100_000)])
def test_a_charge_whose_check_had_no_id_needs_a_default(
    default: str, left: int, llm: PatientLlm, tmp_path: Path
) -> None:
    """A rule without holds: with `default_value` the charge counts, and without it Envoy sends none."""
    with ClockedService(LARGE.replace(", hold: 1000", ""), now=NOON) as service:
        text = configured([service.address], llm)
        if not default:
            del charge_of(text)["actions"][1]["metadata"]["default_value"]
        llm.go.set()
        with running(tmp_path, text) as address:
            before = service.answered
            assert 200 == post(address).status_code
            wait_for("the calls", lambda: service.answered >= before + (2 if default else 1))
        assert left == remaining(service.address)


def test_a_route_that_removes_the_header_is_charged_by_the_id_alone(llm: PatientLlm, tmp_path: Path) -> None:
    """The descriptors of the charge read the headers as the router left them; one of nothing but the id needs none."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        (chain,) = text["static_resources"]["listeners"][0]["filter_chains"]
        (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        host["routes"][0]["request_headers_to_remove"] = ["x-team-id"]
        charge = charge_of(text)
        rate_limit(filters(text))["rate_limits"].append({**charge, "actions": charge["actions"][1:]})
        llm.go.set()
        with running(tmp_path, text) as address:
            for used in (60, 120):
                assert 200 == post(address).status_code
                wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]


def test_both_forms_of_the_charge_together_count_once(llm: PatientLlm, tmp_path: Path) -> None:
    """Where no header was removed, the descriptor of nothing but the id repeats the other one."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        charge = charge_of(text)
        rate_limit(filters(text))["rate_limits"].append({**charge, "actions": charge["actions"][1:]})
        llm.go.set()
        with running(tmp_path, text) as address:
            for used in (60, 120):
                assert 200 == post(address).status_code
                wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]


@pytest.mark.parametrize("apart", [True, False])
def test_two_filters_each_charge_their_own_bucket(apart: bool, llm: PatientLlm, tmp_path: Path) -> None:
    """With a metadata_namespace each, or with one for both, where the second id takes the place of the first."""
    rules = LARGE + LARGE[LARGE.index("  - {key: team") :].replace("team", "user")
    with ClockedService(rules, now=NOON) as service:
        text = configured([service.address], llm)
        found = filters(text)
        second: dict[str, Any] = copy.deepcopy(
            next(each for each in found if each["name"].endswith(".ratelimit"))
        )
        actions = [each["actions"] for each in second["typed_config"]["rate_limits"]]
        for each in actions:
            each[0] = {"request_headers": {"header_name": "x-team-id", "descriptor_key": "user"}}
        if apart:
            second["typed_config"]["metadata_namespace"] = "second"
            actions[1][1]["metadata"]["metadata_key"]["key"] = "second"
        found.insert(2, second)
        llm.go.set()
        with running(tmp_path, text) as address:
            for used in (60, 120, 180):
                assert 200 == post(address).status_code
                for key in (b"team", b"user"):
                    charged = partial(is_left, service.address, 100_000 - used, key)
                    wait_for(f"the charge of {key!r}", charged)


def is_left(service: str, tokens: int, key: bytes) -> bool:
    return tokens == remaining(service, key)


def remaining(service: str, key: bytes = b"team") -> int:
    """What is left of the budget; asked as the end of a request, which holds nothing."""
    request = pb.RateLimitRequest(domain="team-budgets")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=key, value=b"dba")
    descriptor.entries.add(key=b"hold", value=b"-")
    descriptor.hits_addend.value = 0
    with grpc.insecure_channel(service) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )
        left: int = call(request, timeout=10).statuses[0].limit_remaining
    return left
