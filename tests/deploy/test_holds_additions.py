"""The additions to holds.yaml in deploy/envoy/README.md: trailers with the remaining budget, and filters that
read the body.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testing.envoy import EnvoyProcess, connection_manager
from testing.in_process_service import ClockedService
from testing.waiting import wait_for

from .envoy_with_holds import LARGE, NOON, Filters, configured, filters, post, rate_limit, running
from .holds_yaml_changes import SlowProxy, addition, charged, proxied, route_of
from .provider import COMPLETIONS, PeculiarLlm

pytestmark = pytest.mark.e2e


@pytest.fixture
def peculiar() -> Iterator[PeculiarLlm]:
    """A provider with streams, which accepts requests of any length."""
    provider = PeculiarLlm()
    yield provider
    provider.stop()


def with_trailers(text: dict[str, Any], *, after_json: bool = False) -> None:
    """Add trailers. `after_json`: ai_protocol_manager comes after json_to_metadata."""
    manager, page = connection_manager(text), addition("### In the trailers of a stream")
    manager["http_protocol_options"] = page["http_protocol_options"]
    first, protocol = page["http_filters"]
    found: Filters = manager["http_filters"]
    found[0]["typed_config"]["mutations"] |= first["typed_config"]["mutations"]
    names = [each["name"] for each in found]
    found.insert(names.index("envoy.filters.http.json_to_metadata") + after_json, protocol)


def asked(address: str, *, stream: bool) -> socket.socket:
    """Return a connection with a request of 423 tokens, whose answer has not been read."""
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
    """Return the whole answer, including the trailers, which clients hide."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_the_trailers_of_a_stream_have_the_remaining_budget(peculiar: PeculiarLlm, tmp_path: Path) -> None:
    """After the cost of the request. For an answer in JSON, it is in the headers."""
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
    """The caller gets no byte, while later streams are served. The hold ends when the caller disconnects."""
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
def test_a_later_filter_that_reads_the_body_needs_a_larger_limit(
    raised: bool, peculiar: PeculiarLlm, tmp_path: Path
) -> None:
    """A body beyond the limit that arrives during the check hangs, and its hold waits for the ttl."""
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
            """Return whether Envoy has stopped reading the body."""
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
