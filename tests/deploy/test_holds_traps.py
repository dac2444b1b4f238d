"""The traps that deploy/envoy/README.md names for holds.yaml, each in the real Envoy."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from testing.envoy import EnvoyProcess
from testing.in_process_service import ClockedService
from testing.proxy import Proxy
from testing.waiting import wait_for

from ..docs.documents import section
from .envoy_with_holds import (
    FILE,
    LARGE,
    NOON,
    Filters,
    PatientLlm,
    charge_of,
    configured,
    filters,
    post,
    rate_limit,
    remaining,
    running,
)
from .provider import COMPLETIONS, PeculiarLlm

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("signal", ["", "signal: [caller]\n"], ids=["without a signal", "with a signal"])
def test_what_is_left_after_the_request_is_in_a_header(signal: str, llm: PatientLlm, tmp_path: Path) -> None:
    """x-ratelimit-remaining is of the check; x-tokens-remaining is less by what this answer has cost.

    It takes the place of the signal's, which has what was left before; an answer without usage keeps that.
    """
    with ClockedService(signal + LARGE, now=NOON) as service:
        llm.go.set()
        with running(tmp_path, configured([service.address], llm)) as address:
            told, states = [], set()
            for used in (0, 60, 120):
                wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]
                answer = post(address)
                states.add(answer.headers.get("x-tokens-state"))
                told.append((answer.headers["x-ratelimit-remaining"], answer.headers["x-tokens-remaining"]))
            wait_for("the last charge", lambda: 99_820 == remaining(service.address))
            failed = post(address, x_status="500")
    assert [("100000", "99940"), ("99940", "99880"), ("99880", "99820")] == told
    assert ("99820" if signal else None) == failed.headers.get("x-tokens-remaining")
    assert {"ok" if signal else None} == states


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


def charge_twice(address: str, service: ClockedService) -> None:
    """Send two requests of 60 tokens, and wait until each is charged once."""
    for used in (60, 120):
        assert 200 == post(address).status_code
        wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]


def test_a_route_that_removes_the_header_is_charged_by_the_id_alone(llm: PatientLlm, tmp_path: Path) -> None:
    """The descriptors of the charge read the headers as the router left them; one of nothing but the id needs none."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        route_of(text)["request_headers_to_remove"] = ["x-team-id"]
        rate_limit(filters(text))["rate_limits"] += addition("### A charge of nothing but the id")
        llm.go.set()
        with running(tmp_path, text) as address:
            charge_twice(address, service)


def test_both_forms_of_the_charge_together_count_once(llm: PatientLlm, tmp_path: Path) -> None:
    """Where no header was removed, the descriptor of nothing but the id repeats the other one."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        rate_limit(filters(text))["rate_limits"] += addition("### A charge of nothing but the id")
        llm.go.set()
        with running(tmp_path, text) as address:
            charge_twice(address, service)


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
            added = addition("### Two rate-limit filters")
            second["typed_config"]["metadata_namespace"] = added["metadata_namespace"]
            actions[1][1]["metadata"]["metadata_key"] = added["metadata_key"]
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


@pytest.fixture
def peculiar() -> Iterator[PeculiarLlm]:
    """A provider with streams, whose requests may be of any length."""
    provider = PeculiarLlm()
    yield provider
    provider.stop()


def manager_of(text: dict[str, Any]) -> dict[str, Any]:
    """The settings of the HTTP connection manager."""
    (chain,) = text["static_resources"]["listeners"][0]["filter_chains"]
    found = chain["filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


def route_of(text: dict[str, Any]) -> dict[str, Any]:
    """The only route."""
    (host,) = manager_of(text)["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert isinstance(route, dict)
    return route


def addition(heading: str) -> Any:
    """The YAML under a heading of the README."""
    (text,) = [block.text for block in section(FILE.with_name("README.md"), heading) if block.info == "yaml"]
    return yaml.safe_load(text)


def charged(service: ClockedService, tokens: int) -> None:
    """Wait until so many tokens are charged."""
    wait_for(f"a charge of {tokens}", lambda: 100_000 - tokens == remaining(service.address))


@pytest.mark.parametrize(("whole", "left"), [(True, 10_000_000 - 1_234_567), (False, 10_000_000 - 1_234_570)])
def test_a_charge_needs_int(whole: bool, left: int, llm: PatientLlm, tmp_path: Path) -> None:
    """A double has six digits."""
    with ClockedService(LARGE.replace("100_000", "10_000_000"), now=NOON) as service:
        text = configured([service.address], llm)
        if not whole:
            hits = charge_of(text)["hits_addend"]
            hits["format"] = hits["format"].replace("int(", "(")
        llm.go.set()
        with running(tmp_path, text) as address:
            assert 200 == post(address, x_tokens="1234567").status_code
            wait_for("the charge", lambda: left == remaining(service.address))


def test_a_route_that_removes_the_header_loses_the_charge(llm: PatientLlm, tmp_path: Path) -> None:
    """Not a call is made at its end; the hold waits for its ttl."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        route_of(text)["request_headers_to_remove"] = ["x-team-id"]
        llm.go.set()
        with running(tmp_path, text) as address:
            for _ in range(3):
                assert 200 == post(address).status_code
        assert (3, 100_000) == (service.answered, remaining(service.address))


class SlowProxy(Proxy):
    """Passes nothing on until it is `open`."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.open = threading.Event()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self.open.is_set():
            await asyncio.sleep(0.01)
        await super()._pass_on(reader, writer)


async def _ended(proxy: Proxy) -> None:
    """Stop a proxy, and wait until its tasks and its transports have ended."""
    await proxy.stop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(5):  # transports are closed in later rounds of the loop
        await asyncio.sleep(0)


P = TypeVar("P", bound=Proxy)


@contextmanager
def proxied(port: int, kind: type[P]) -> Iterator[P]:
    """A proxy before a port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = kind(port)
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(30)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_ended(proxy), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@pytest.mark.parametrize(
    ("place", "ids", "calls", "used"),
    [("grpc_service", True, 3, 60), ("grpc_service", False, 3, 120), ("envoy_grpc", True, 2, 60)],
)
def test_a_charge_that_envoy_sends_again_counts_once_by_its_id(
    place: str, ids: bool, calls: int, used: int, llm: PatientLlm, tmp_path: Path
) -> None:
    """The connection breaks when the service has read the charge. Without an id it is charged twice.

    A retry_policy in envoy_grpc changes nothing.
    """
    with (
        ClockedService(LARGE, now=NOON) as service,
        proxied(int(service.address.rpartition(":")[2]), Proxy) as proxy,
    ):
        text = configured([f"127.0.0.1:{proxy.port}"], llm)
        grpc_service = rate_limit(filters(text))["rate_limit_service"]["grpc_service"]
        retried = addition("### A charge that is sent again")["grpc_service"]
        (grpc_service if place == "grpc_service" else grpc_service["envoy_grpc"])["retry_policy"] = retried[
            "retry_policy"
        ]
        if not ids:
            del charge_of(text)["actions"][1]
        with running(tmp_path, text) as address:
            threading.Thread(target=post, args=(address,), daemon=True).start()
            wait_for("the request at the provider", lambda: 1 == llm.arrived)
            proxy.cut_replies_after, proxy.cuts = 0, 1
            llm.go.set()
            wait_for("the calls", lambda: service.answered >= calls)
            wait_for("the cut", lambda: 0 == proxy.cuts)
            charged(service, used)


def with_trailers(text: dict[str, Any], *, after_json: bool = False) -> None:
    """Add them; `after_json`: ai_protocol_manager behind json_to_metadata."""
    manager, page = manager_of(text), addition("### In the trailers of a stream")
    manager["http_protocol_options"] = page["http_protocol_options"]
    first, protocol = page["http_filters"]
    found: Filters = manager["http_filters"]
    found[0]["typed_config"]["mutations"] |= first["typed_config"]["mutations"]
    names = [each["name"] for each in found]
    found.insert(names.index("envoy.filters.http.json_to_metadata") + after_json, protocol)


def asked(address: str, *, stream: bool) -> socket.socket:
    """A connection with a request of 423 tokens, whose answer was not read yet."""
    content = json.dumps({"messages": [], "stream": stream, "stream_options": {"include_usage": True}})
    fields = {
        "host": address,
        "x-team-id": "dba",
        "x-mock-tokens": "423",
        "te": "trailers",
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    host, _, port = address.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\n{head}\r\n{content}".encode())
    return connection


def answer_of(connection: socket.socket) -> str:
    """The whole answer, with the trailers that clients hide."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_what_is_left_after_a_stream_is_in_its_trailers(peculiar: PeculiarLlm, tmp_path: Path) -> None:
    """With the tokens of the request; an answer in JSON has them in its headers."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], peculiar)
        with_trailers(text)
        with running(tmp_path, text) as address:
            seen = []
            for number, stream in enumerate((True, False, True)):
                charged(service, 423 * number)
                seen.append(answer_of(asked(address, stream=stream)))
    for answer, left in ((seen[0], 99_577), (seen[2], 98_731)):
        trailers = answer.partition("\r\n0\r\n")[2]
        assert {"x-tokens-used: 423", f"x-tokens-remaining: {left}"} == set(trailers.split("\r\n")) - {""}
    assert "\r\nx-tokens-remaining: 99154\r\n" in seen[1]


def test_json_to_metadata_before_the_trailers_hangs_answers_in_json(
    peculiar: PeculiarLlm, tmp_path: Path
) -> None:
    """Not a byte comes, while streams behind it are served; its hold ends when its caller hangs up."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], peculiar)
        with_trailers(text, after_json=True)
        with running(tmp_path, text) as address, asked(address, stream=False) as hanging:
            for number in (1, 2, 3):
                assert "x-tokens-used: 423" in answer_of(asked(address, stream=True))
                charged(service, 423 * number)
            hanging.setblocking(False)
            with pytest.raises(BlockingIOError):
                hanging.recv(1)


MERGING = {
    "name": "envoy.filters.http.transform",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.transform.v3.TransformConfig",
        "request_transformation": {
            "body_transformation": {"action": "MERGE", "body_format": {"json_format": {"model": "small"}}}
        },
    },
}
"""A filter that reads the whole body of a request."""


@pytest.mark.parametrize("raised", [True, False])
def test_a_filter_behind_that_reads_the_body_needs_a_larger_limit(
    raised: bool, peculiar: PeculiarLlm, tmp_path: Path
) -> None:
    """A body beyond the limit that arrives during the check hangs behind it, and its hold waits for the ttl."""
    rules = LARGE.replace("100_000", "1000").replace("hold: 1000", 'hold: 1000, hold_max: "100%"')
    body = json.dumps({"padding": "x" * 3_000_000}).encode()
    fields = f"x-team-id: dba\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with ExitStack() as stack:
        service = stack.enter_context(ClockedService(rules, now=NOON))
        port = int(service.address.rpartition(":")[2])
        proxy = stack.enter_context(proxied(port, SlowProxy))
        text = configured([f"127.0.0.1:{proxy.port}"], peculiar)
        rate_limit(filters(text))["timeout"] = "60s"
        filters(text).insert(2, MERGING)
        if raised:
            route_of(text).update(addition("### A filter behind that reads the body"))
        envoy = EnvoyProcess(tmp_path, yaml.safe_dump(text))
        stack.callback(envoy.stop)
        address = envoy.listeners["callers"]

        def paused() -> bool:
            """Whether Envoy has stopped to read the body."""
            stats = httpx.get(f"http://{envoy.admin}/stats", trust_env=False).text
            return bool(re.search(r"flow_control_paused_reading_total: [1-9]", stats))

        host, _, number = address.partition(":")
        connection = stack.enter_context(socket.create_connection((host, int(number)), timeout=60))
        connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n".encode())
        sending = threading.Thread(target=send, args=(connection, body), daemon=True)
        sending.start()
        wait_for("the body", (lambda: not sending.is_alive()) if raised else paused)
        proxy.open.set()
        if raised:
            assert b"HTTP/1.1 200" == connection.recv(12)
            return
        wait_for("the check", lambda: 1 <= service.answered)
        assert 429 == post(address).status_code
        connection.shutdown(socket.SHUT_RDWR)
        sending.join(30)
        service.now += 60
        assert 200 == post(address).status_code


def send(connection: socket.socket, body: bytes) -> None:
    """Send as much as the peer takes."""
    with suppress(OSError):
        connection.sendall(body)
