"""The main port: /healthcheck and /json."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from ratelimit_service.core.errors import RateLimitServiceError, StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Decision,
    DescriptorRule,
    DomainRules,
    Hit,
    Limit,
    Rule,
    StatKey,
    Unit,
    Window,
)
from ratelimit_service.core.plan import Plan, Policy
from ratelimit_service.http import json as endpoint
from ratelimit_service.http.json import LARGEST_BODY
from ratelimit_service.http.main import main_app
from ratelimit_service.ports import OnOutcomes
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports import codec

from .serving import serving

METHODS = ["GET", "POST", "PUT", "DELETE", "PURGE"]

NOW = 1_000_000 * 60 + 1.0
"""A second after the start of a minute."""


def rule(amount: int, window: Window, *levels: str) -> Rule:
    return Rule(StatKey("d", levels), (Limit(amount, window, "slow"),))


TREE = RuleTree(
    [
        DomainRules(
            "d",
            (
                DescriptorRule(b"team", rule=rule(2, Window(Unit.MINUTE), "team")),
                DescriptorRule(b"team", "Ünï".encode(), rule(1, Window(Unit.MINUTE, 15), "team_Ünï")),
            ),
        )
    ]
)


class Quiet:
    """An observer that ignores everything."""

    def decided(self, plan: Plan, decision: Decision) -> None:
        """Do nothing."""

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """Do nothing."""


class FailingStore(MemoryStore):
    """A store that cannot be reached."""

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        on_outcomes([StoreError("Redis cannot be reached")] * len(groups))


class Port(NamedTuple):
    """A main port, and the parts behind it."""

    client: httpx.AsyncClient
    service: RateLimitService
    health: Health

    async def ask(self, **more: Any) -> httpx.Response:
        """Send a check or a charge for team x."""
        entries = [{"key": "team", "value": "x"}]
        return await self.client.post(
            "/json", json={"domain": "d", "descriptors": [{"entries": entries, **more}]}
        )


async def _port(store: MemoryStore, policy: Policy) -> AsyncIterator[Port]:
    service, health = RateLimitService(store, Quiet(), lambda: NOW, policy), Health()
    service.use(TREE)
    async with serving(main_app(service, health, codec)) as client:
        yield Port(client, service, health)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async for port in _port(MemoryStore(lambda: NOW), Policy(dynamic_metadata=True)):
        yield port


@pytest.fixture
async def port_without_store() -> AsyncIterator[Port]:
    async for port in _port(FailingStore(lambda: NOW), Policy()):
        yield port


async def test_healthcheck_is_ok_while_every_component_is_healthy(port: Port) -> None:
    """For any method, with upstream's body."""
    port.health.set("redis", True)
    responses = [await port.client.request(method, "/healthcheck") for method in METHODS]
    assert [(200, "OK")] * len(METHODS) == [(response.status_code, response.text) for response in responses]


async def test_healthcheck_names_unhealthy_components(port: Port) -> None:
    """For any method, with status 500, which upstream's probes check for."""
    port.health.set("redis", False)
    port.health.set("config", True)
    responses = [await port.client.request(method, "/healthcheck") for method in METHODS]
    assert [(500, "unhealthy: redis\n")] * len(METHODS) == [
        (response.status_code, response.text) for response in responses
    ]


async def test_other_paths_are_not_found(port: Port) -> None:
    """Paths of the other ports are not on this one, and paths are exact."""
    paths = ["/", "/json/", "/healthcheck/", "/metrics", "/rlconfig"]
    assert [404] * len(paths) == [(await port.client.get(path)).status_code for path in paths]


async def test_json_follows_the_json_mapping_of_protobuf(port: Port) -> None:
    """Names are lowerCamelCase, zero fields are omitted, durations have an s, and enums are names."""
    response = await port.ask()
    assert (200, "application/json") == (response.status_code, response.headers["content-type"])
    assert {
        "overallCode": "OK",
        "statuses": [
            {
                "code": "OK",
                "currentLimit": {"requestsPerUnit": 2, "unit": "MINUTE", "name": "slow"},
                "limitRemaining": 1,
                "durationUntilReset": "59s",
            }
        ],
        "dynamicMetadata": response.json()["dynamicMetadata"],
    } == response.json()
    assert "d" == response.json()["dynamicMetadata"]["domain"]


async def test_json_returns_429_over_the_limit(port: Port) -> None:
    """The body has the whole answer."""
    codes = [(await port.ask()).status_code for _ in range(3)]
    last = await port.ask()
    assert [200, 200, 429] == codes
    assert (429, "OVER_LIMIT") == (last.status_code, last.json()["overallCode"])
    assert "limitRemaining" not in last.json()["statuses"][0]


async def test_json_accepts_any_method_and_content_type(port: Port) -> None:
    """Upstream accepts them too."""
    body = '{"domain": "nowhere", "descriptors": [{"entries": [{"key": "team", "value": "x"}]}]}'
    responses = [await port.client.request(method, "/json", content=body) for method in METHODS]
    assert [(200, "OK")] * len(METHODS) == [
        (response.status_code, response.json()["overallCode"]) for response in responses
    ]


async def test_keys_and_values_are_plain_strings(port: Port) -> None:
    """They are not base64, although they are bytes in the proto; also if they look like base64, and beyond
    ASCII.
    """
    entries = [{"key": "team", "value": "Ünï"}]
    response = await port.client.post("/json", json={"domain": "d", "descriptors": [{"entries": entries}]})
    assert {"requestsPerUnit": 1, "unit": "MINUTE", "name": "slow", "unitMultiplier": 15} == (
        response.json()["statuses"][0]["currentLimit"]
    )


@pytest.mark.parametrize(
    "more, remaining",
    [
        ({"hitsAddend": 0}, 2),
        ({"hits_addend": 0}, 2),
        ({"hitsAddend": "2"}, 0),
        ({"hits_addend": 2}, 0),
        ({"hitsAddend": None}, 1),
        ({"isNegativeHits": True}, 2),
        ({"is_negative_hits": True}, 2),
        ({"limit": {"requestsPerUnit": 9, "unit": "HOUR"}}, 8),
        ({"limit": {"requests_per_unit": 9, "unit": 3}}, 8),
        ({"limit": {"requests_per_unit": 9, "unit": "HOUR", "unitMultiplier": 4}}, 8),
    ],
)
async def test_all_spellings_of_fields_and_values_are_accepted(
    port: Port, more: dict[str, Any], remaining: int
) -> None:
    """Enums may be names or numbers, 64-bit integers strings, and wrapped values may lack their wrapper."""
    response = await port.ask(**more)
    assert (200, remaining) == (
        response.status_code,
        response.json()["statuses"][0].get("limitRemaining", 0),
    )


async def test_hits_of_a_request_are_counted(port: Port) -> None:
    """hitsAddend next to domain applies to descriptors without their own."""
    body = {"domain": "d", "hitsAddend": 3, "descriptors": [{"entries": [{"key": "team", "value": "x"}]}]}
    assert 429 == (await port.client.post("/json", json=body)).status_code


ENTRY = '{"domain": "d", "descriptors": [{"entries": [%s]}]}'
ONE_ENTRY = '{"key": "k", "value": "[{,\\"\\\\"}'
TEN_ENTRIES, ELEVEN_ENTRIES = (
    f'{{"entries": [{",".join([ONE_ENTRY] * number)}], "limit": {{"requestsPerUnit": 1, "unit": "DAY"}}}}'
    for number in (10, 11)
)


BAD_BODIES: list[tuple[str | bytes, str]] = [
    # not JSON
    ("", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    (
        "{",
        "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    (b'{"domain": "\xff"}', "the body is not UTF-8: byte 12 is wrong"),
    ('{"hitsAddend": NaN}', "the body is not JSON: NaN is not a JSON number"),
    ('{"hitsAddend": -Infinity}', "the body is not JSON: -Infinity is not a JSON number"),
    ('{"domain": "d", "domain": "e"}', "the body is not JSON: an object has the name 'domain' twice"),
    ("[" * 5_000, "the body is nested too deeply"),
    ('{"a":' * 1_100, "the body is nested too deeply"),
    ('{"hitsAddend": ' + "9" * 5_000 + "}", "the body is not JSON: Exceeds the limit (4300 digits)"),
    # not an object
    ("null", 'the body must be a JSON object: {"domain": ..., "descriptors": [...]}'),
    ("[]", 'the body must be a JSON object: {"domain": ..., "descriptors": [...]}'),
    # not a RateLimitRequest
    ('{"domain": "d", "descriptor": []}', 'has no field named "descriptor"'),
    (ENTRY % '{"key": "a", "vlaue": "b"}', 'has no field named "vlaue"'),
    ('{"descriptors": {}}', "descriptors must be a list"),
    ('{"descriptors": [[]]}', "descriptors[0] must be an object"),
    ('{"descriptors": [{"entries": "x"}]}', "descriptors[0].entries must be a list"),
    (ENTRY % '{"key": "abcd"}, []', "descriptors[0].entries[1] must be an object"),
    (ENTRY % '{"key": 5}', "descriptors[0].entries[0].key must be a string"),
    (ENTRY % '{"key": "a", "value": {}}', "descriptors[0].entries[0].value must be a string"),
    (ENTRY % r'{"key": "\ud800"}', "descriptors[0].entries[0].key has half of a surrogate pair"),
    (r'{"domain": "\ud800"}', "domain has half of a surrogate pair"),
    ('{"domain": 5}', "domain"),
    ('{"hitsAddend": -1}', "Value out of range: -1"),
    ('{"hitsAddend": 4294967296}', "Value out of range: 4294967296"),
    ('{"hitsAddend": 1e999}', "inf"),
    ('{"hitsAddend": 1.5}', "1.5"),
    ('{"hitsAddend": true}', "Bool value True is not acceptable for integer field"),
    ('{"descriptors": [{"hitsAddend": {"value": 1}}]}', "hitsAddend"),
    ('{"descriptors": [{"limit": {"unit": "FORTNIGHT"}}]}', "Invalid enum value FORTNIGHT"),
    ('{"descriptors": [{"limit": {"unit": 1e999}}]}', "infinity"),
    ('{"descriptors": [{"limit": 5}]}', "limit"),
    # a RateLimitRequest that cannot be decided
    ("{}", "the domain of a request must not be empty"),
    ('{"domain": "d"}', "a request needs at least one descriptor"),
    ('{"domain": "d", "descriptors": [{"limit": {"unit": 99}}]}', "a limit override has the unknown unit 99"),
    # above a bound: counted before parsing if it is far above
    (f'{{"domain": "d", "descriptors": [{",".join(["{}"] * 101)}]}}', "100 descriptors, not 101"),
    (ENTRY % ",".join(["{}"] * 101), "a descriptor may have 100 entries, not 101"),
    (
        f'{{"domain": "d", "descriptors": [{",".join([TEN_ENTRIES] * 100 + ["{}"])}]}}',
        "100 descriptors, not 101",
    ),
    (
        f'{{"domain": "d", "descriptors": [{",".join([TEN_ENTRIES] * 99 + [ELEVEN_ENTRIES])}]}}',
        "1000 entries in all",
    ),
    *[
        (
            f'{{"domain": "d", "descriptors": [{(one + ",") * (1_000_000 // len(one + ","))}{one}]}}',
            "and the body has more",
        )
        for one in ("{}", '{"entries":[]}', "[]", "1", '""', '"\\""', '{"hitsAddend":0}')
    ],
    (ENTRY % ('"",' * 300_000), "and the body has more"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_port() -> AsyncIterator[Port]:
    """One port for many requests, which count nothing."""
    async for port in _port(MemoryStore(lambda: NOW), Policy()):
        yield port


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("body, complaint", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_an_invalid_body_is_refused_with_the_reason(
    lasting_port: Port, body: str | bytes, complaint: str
) -> None:
    """The response is one line of text with 400, and never 500, for any input."""
    response = await lasting_port.client.post("/json", content=body)
    assert (400, "text/plain; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert response.text.startswith("Bad Request: ")
    assert complaint in response.text
    assert response.text.removesuffix("\n").isprintable()
    assert len(response.text) < 600


async def test_a_body_that_is_too_large_is_refused(port: Port) -> None:
    """The answer is 413 with the largest size."""
    response = await port.client.post("/json", content=b" " * (LARGEST_BODY + 1))
    assert (413, "Content Too Large: the body may have 1048576 bytes at most\n") == (
        response.status_code,
        response.text,
    )


async def test_the_memory_for_unfinished_bodies_is_bounded(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further ones are refused, and probes are still answered. When the senders disconnect, there is room
    again.
    """
    monkeypatch.setattr(endpoint, "MOST_HELD", 100_000)
    url = port.client.base_url
    head = b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n"
    peers = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head + b" " * 40_000)
        peers.append((reader, writer))
    ended, _ = await asyncio.wait(
        [asyncio.create_task(reader.readline()) for reader, _ in peers], return_when=asyncio.FIRST_COMPLETED
    )
    assert {b"HTTP/1.1 503 Service Unavailable\r\n"} == {task.result() for task in ended}
    assert 200 == (await port.client.get("/healthcheck")).status_code
    for _, writer in peers:
        writer.close()
    large = {"domain": "d" * 90_000, "descriptors": [{}]}
    while (status := (await port.client.post("/json", json=large)).status_code) == 503:
        pass
    assert 200 == status


async def test_a_large_body_without_a_length_is_refused(port: Port) -> None:
    """Received bytes are counted, not announced ones."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_BODY // 1_024 + 1):
            yield b" " * 1_024

    assert 413 == (await port.client.post("/json", content=pieces())).status_code


async def test_a_failing_store_is_answered_400_as_in_upstream(port_without_store: Port) -> None:
    """Upstream answers 400 to every error of the service; the body here has the reason."""
    response = await port_without_store.ask()
    assert (400, "Bad Request: Redis cannot be reached\n") == (response.status_code, response.text)


async def test_requests_before_the_rules_are_loaded_fail() -> None:
    """An OK would let every request pass."""
    service = RateLimitService(MemoryStore(lambda: NOW), Quiet(), lambda: NOW)
    async with serving(main_app(service, Health(), codec)) as client:
        response = await client.post("/json", json={"domain": "d", "descriptors": [{}]})
    assert (400, "Bad Request: no configuration has been loaded yet\n") == (
        response.status_code,
        response.text,
    )


class BrokenStore(MemoryStore):
    """A store that returns something other than counts."""

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        on_outcomes([["seven"]] * len(groups))  # type: ignore[list-item]


async def test_a_bug_is_answered_500_without_details() -> None:
    """The cause is passed to the event loop's exception handler, and so to the log."""
    causes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: causes.append(context["exception"]))
    async for port in _port(BrokenStore(lambda: NOW), Policy()):
        response = await port.ask()
        assert (500, "Internal Server Error: internal error\n") == (response.status_code, response.text)
    assert [TypeError] == [type(cause) for cause in causes]
