"""What a gRPC client sees, whichever transport serves it. Black box: raw bytes over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimit_service.core.errors import StartError, StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from ratelimit_service.deadlines import Patience
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import Call, RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports import grpcio
from ratelimit_service.transports.contract import GrpcServer, MakeGrpcServer
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.grpcio import GrpcioServer
from ratelimit_service.transports.native.server import NativeServer
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import PATIENCE

from . import h2
from .h2 import Peer

NOW = 1_795_249_200.0
TEAM_RULE = Rule(StatKey("llm", ("team",)), (Limit(100, Window(Unit.HOUR), "team-budget"),))
TREE = RuleTree([DomainRules("llm", (DescriptorRule(b"team", rule=TEAM_RULE),))])


TRANSPORTS: dict[str, MakeGrpcServer] = {"grpcio": GrpcioServer, "native": NativeServer}


@dataclass
class Served:
    """A server, what is behind it, and a channel to it. `held` gathers answers of the store while `hold` is set."""

    server: GrpcServer
    service: RateLimitService
    store: MemoryStore
    health: Health
    channel: aio.Channel
    held: list[Callable[[], None]] = field(default_factory=list)

    async def call(self, data: bytes, patience: float | None = 10) -> RateLimitResponse:
        method = self.channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
        response: RateLimitResponse = await method(data, timeout=patience)
        return response

    async def code(self, data: bytes, patience: float | None = 10) -> tuple[grpc.StatusCode, str]:
        """The gRPC status of a call that fails."""
        with pytest.raises(aio.AioRpcError) as error:
            await self.call(data, patience)
        return error.value.code(), error.value.details() or ""


Start = Callable[..., Awaitable[Served]]


async def serve(
    options: GrpcOptions,
    transport: str = "grpcio",
    *,
    hold: bool = False,
    rules: bool = True,
    patience: Patience | None = None,
) -> Served:
    held: list[Callable[[], None]] = []
    store = MemoryStore(lambda: NOW, defer=held.append if hold else None)
    service = RateLimitService(store, Metrics(), lambda: NOW, patience=patience)
    if rules:
        service.use(TREE)
    health = Health()
    server = TRANSPORTS[transport](service, health, options)
    await server.start()
    return Served(server, service, store, health, aio.insecure_channel(server.address), held)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def start(transport: str) -> AsyncIterator[Start]:
    """Starts servers, and stops them when the test is over."""
    started: list[Served] = []

    async def begin(options: GrpcOptions | None = None, **more: Any) -> Served:
        served = await serve(options or GrpcOptions(), transport, **more)
        started.append(served)
        return served

    yield begin
    for served in started:
        await served.channel.close(None)
        await served.server.stop(0)


@pytest.fixture
async def served(start: Start) -> Served:
    return await start()


def message(team: str = "json", hits: int | None = None, domain: str = "llm") -> bytes:
    request = RateLimitRequest(domain=domain)
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=team.encode())
    if hits is not None:
        descriptor.hits_addend.value = hits
    return request.SerializeToString()


CHECK = bytes.fromhex("0a036c6c6d12100a0c0a047465616d12046a736f6e1a00")
CHARGE_40 = bytes.fromhex("0a036c6c6d12120a0c0a047465616d12046a736f6e1a020828")
INVALID_UTF8 = bytes.fromhex("0a036c6c6d12110a0d0a047465616d12057465ff616d1a00")


async def test_an_answer_is_explained_where_that_is_asked_for(served: Served) -> None:
    """`explain` of a request, which gateways never set; the answer is the same but for its metadata."""
    asked = RateLimitRequest.FromString(message("explained", hits=30))
    asked.explain = True
    answer = await served.call(asked.SerializeToString())
    explanation = json_format.MessageToDict(answer.dynamic_metadata)["explanation"]
    (window,) = explanation["descriptors"][0]["windows"]
    assert ("llm.team", "hour", 100, 30, 70, False) == (
        explanation["descriptors"][0]["rule"],
        *(window[name] for name in ("window", "limit", "used", "remaining", "over")),
    )
    answer.ClearField("dynamic_metadata")
    assert await served.call(message("explained", hits=0)) == answer


async def test_envoys_own_bytes_check_and_charge(served: Served) -> None:
    """The very bytes that Envoy sends: a check, three charges of 40, and the check that is refused."""
    first = await served.call(CHECK)
    assert (RateLimitResponse.OK, 100) == (first.overall_code, first.statuses[0].limit_remaining)
    assert "team-budget" == first.statuses[0].current_limit.name
    assert RateLimitResponse.RateLimit.HOUR == first.statuses[0].current_limit.unit
    for _ in range(3):
        await served.call(CHARGE_40)
    last = await served.call(CHECK)
    assert RateLimitResponse.OVER_LIMIT == last.overall_code
    assert 0 < last.statuses[0].duration_until_reset.seconds <= 3600


@pytest.mark.parametrize(
    "authority", ["outbound|8081||ratelimit.ratelimit.svc", "extension/ratelimit/ratelimit", "rate limit"]
)
async def test_any_authority_is_accepted(served: Served, authority: str) -> None:
    """Envoy sends the name of its cluster unless it is configured otherwise, and names have characters that no URL has."""
    peer = await Peer.connect(served.server.address)
    peer.send(h2.call(1, CHECK, h2.replaced(authority=authority.encode())))
    assert 0 == (await peer.answer(1)).status
    peer.close()


async def test_a_header_that_is_not_utf8_is_limited_like_any_other(served: Served) -> None:
    """A message with such a value is answered: an error would let the caller through unlimited."""
    response = await served.call(INVALID_UTF8)
    assert 100 == response.statuses[0].limit_remaining
    charge = RateLimitRequest.FromString(INVALID_UTF8)
    charge.descriptors[0].hits_addend.value = 101
    await served.call(charge.SerializeToString())
    response = await served.call(INVALID_UTF8)
    assert RateLimitResponse.OVER_LIMIT == response.overall_code


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (message(domain=""), grpc.StatusCode.INVALID_ARGUMENT, "domain"),
        (RateLimitRequest(domain="llm").SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT, "descriptor"),
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "RateLimitRequest"),
        # Short enough to be parsed and counted then, and too long for that.
        (b"\x0a\x03llm" + b"\x12\x00" * 101, grpc.StatusCode.INVALID_ARGUMENT, "100 descriptors"),
        (b"\x0a\x03llm" + b"\x12\x00" * 500_000, grpc.StatusCode.INVALID_ARGUMENT, "100 descriptors"),
        (
            b"\x0a\x03llm\x12\xca\x01" + b"\x0a\x00" * 101,
            grpc.StatusCode.INVALID_ARGUMENT,
            "100 entries, not 101",
        ),
        (
            b"\x0a\x03llm" + b"\x12\x3e".join([b"", *[b"\x0a\x00" * 31] * 33]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "1000 entries",
        ),
    ],
)
async def test_a_request_that_cannot_be_decided_is_an_invalid_argument(
    served: Served, data: bytes, code: grpc.StatusCode, said: str
) -> None:
    """The status says so, and its message says what is missing."""
    got, details = await served.code(data)
    assert code == got
    assert said in details


async def test_an_error_leaves_no_cycle_that_holds_the_request(served: Served) -> None:
    """A stranger's megabytes would stay until a full collection, of which there are next to none."""
    wrong = [
        message(domain=""),
        b"\xff" * 1_000,
        b"\x12\x00" * 5_000,
        RateLimitRequest(domain="llm").SerializeToString(),
    ]
    for data in wrong:
        await served.code(data)
    gc.collect()
    gc.disable()
    try:
        for data in wrong * 5:
            await served.code(data)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        frames = [thing for thing in gc.garbage if isinstance(thing, FrameType)]
        ours = [
            frame.f_code.co_qualname for frame in frames if "ratelimit_service" in frame.f_code.co_filename
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [] == ours


async def test_an_override_with_an_unknown_unit_is_an_invalid_argument(served: Served) -> None:
    """It must not end the process, as it does elsewhere."""
    request = RateLimitRequest(domain="llm")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=b"x")
    descriptor.limit.requests_per_unit = 5
    for unit in (0, 8, 99):
        descriptor.limit.unit = unit  # type: ignore[assignment]
        code, details = await served.code(request.SerializeToString())
        assert grpc.StatusCode.INVALID_ARGUMENT == code
        assert f"unit {unit}" in details


async def test_without_rules_a_call_is_unavailable(start: Start) -> None:
    """The gateway's own failure mode decides then."""
    served = await start(rules=False)
    code, details = await served.code(CHECK)
    assert grpc.StatusCode.UNAVAILABLE == code
    assert "configuration" in details


async def test_a_store_that_fails_is_unavailable(served: Served) -> None:
    """And the message says why."""
    served.store.hit = lambda groups, then: then([StoreError("Redis is gone") for _ in groups])  # type: ignore[method-assign]
    assert (grpc.StatusCode.UNAVAILABLE, "Redis is gone") == await served.code(CHECK)


async def test_a_message_over_the_size_limit_is_refused(start: Start) -> None:
    """Before it is read into memory."""
    served = await start(GrpcOptions(max_message_bytes=1000))
    code, _ = await served.code(message("x" * 2000))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == code
    assert RateLimitResponse.OK == (await served.call(CHECK)).overall_code


async def test_more_calls_than_the_server_takes_on_are_shed(start: Start) -> None:
    """The third call of two is told so at once; the two are answered when the store answers."""
    served = await start(GrpcOptions(max_concurrent_calls=2), hold=True)
    waiting = [asyncio.ensure_future(served.call(CHARGE_40)) for _ in range(2)]
    await until(lambda: served.server.in_hand == 2)
    code, _ = await served.code(CHARGE_40)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == code
    for answer in served.held:
        answer()
    assert [RateLimitResponse.OK] * 2 == [(await call).overall_code for call in waiting]


async def test_one_connection_too_many_is_closed(start: Start) -> None:
    """Those that are there go on, and where one of them leaves there is room again."""
    served = await start(GrpcOptions(max_connections=2))
    peers = [await Peer.connect(served.server.address) for _ in range(2)]
    for peer in peers:
        peer.send(h2.call(1, CHECK))
        assert 0 == (await peer.answer(1)).status
    peers.append(await Peer.connect(served.server.address))
    assert [] == await peers[2].rest()
    peers[0].send(h2.call(3, CHECK))
    assert 0 == (await peers[0].answer(3)).status
    peers[0].close()
    await until_served(served.server.address)
    for peer in peers:
        peer.close()


async def test_a_peer_that_does_not_introduce_itself_is_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one of the places that GRPC_MAX_CONNECTIONS counts."""
    monkeypatch.setattr("ratelimit_service.transports.grpcio._HANDSHAKE", 0.2)
    monkeypatch.setattr("ratelimit_service.transports.native.connection.PATIENCE", 0.2)
    served = await start(GrpcOptions())
    reader, writer = await asyncio.open_connection(*served.server.address.split(":"))
    async with asyncio.timeout(20):
        while await reader.read(1_000):
            pass
    writer.close()


async def until_served(address: str) -> None:
    """Until a new connection is taken."""
    async with asyncio.timeout(20):
        while True:
            peer = await Peer.connect(address)
            peer.send(h2.call(1, CHECK))
            try:
                assert 0 == (await peer.answer(1)).status
            except (EOFError, ConnectionError):
                await asyncio.sleep(0.01)
            else:
                return
            finally:
                peer.close()


async def test_a_charge_survives_its_callers_deadline(start: Start) -> None:
    """The caller is told DEADLINE_EXCEEDED, and is charged all the same."""
    served = await start(hold=True)
    code, _ = await served.code(CHARGE_40, patience=0.05)
    assert grpc.StatusCode.DEADLINE_EXCEEDED == code
    await until(lambda: len(served.store) == 1)
    assert [40] == list((await served.store.read_bucket("{llm|team=json}")).values())


async def test_the_service_learns_how_long_a_caller_waits(served: Served) -> None:
    """Its grpc-timeout, which gRPC's own clients round up, and less what it took to get here."""
    timeouts: list[int] = []
    submit = served.service.submit

    def submitted(calls: Sequence[Call]) -> None:
        timeouts.extend(call.timeout for call in calls)
        submit(calls)

    served.service.submit = submitted  # type: ignore[method-assign]
    await served.call(CHECK, patience=60)
    await served.call(CHECK, patience=None)
    (milliseconds, without) = timeouts
    assert (True, -1) == (40_000 < milliseconds < 61_000, without)


async def test_a_caller_without_a_deadline_waits_no_longer_than_it_is_given(start: Start) -> None:
    """The answer is the failure mode's; the charge is counted."""
    served = await start(hold=True, patience=Patience(otherwise=0.01))
    late = (grpc.StatusCode.UNAVAILABLE, "the store did not answer within 10 ms")
    assert late == await served.code(CHARGE_40, patience=None)
    assert [40] == list((await served.store.read_bucket("{llm|team=json}")).values())


async def test_health_follows_the_service(served: Served) -> None:
    """ "ratelimit" is SERVING while every component is healthy; "" is the process; other names are unknown."""
    stub = health_pb2_grpc.HealthStub(served.channel)
    status = health_pb2.HealthCheckResponse
    served.health.set("redis", False)
    assert status.NOT_SERVING == await health_of(stub, "ratelimit")
    assert status.SERVING == await health_of(stub, "")
    served.health.set("redis", True)
    assert status.SERVING == await health_of(stub, "ratelimit")
    with pytest.raises(aio.AioRpcError) as error:
        await health_of(stub, "other")
    assert grpc.StatusCode.NOT_FOUND == error.value.code()


async def health_of(stub: health_pb2_grpc.HealthStub, name: str) -> int:
    await asyncio.sleep(0)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)).status)


async def test_names_that_strangers_watch_are_not_kept(served: Served) -> None:
    """They are unknown for as long as they are watched; the names of services that exist are answered as ever."""
    stub = health_pb2_grpc.HealthStub(served.channel)
    for number in range(50):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=f"made up {number}"), timeout=10)
        assert health_pb2.HealthCheckResponse.SERVICE_UNKNOWN == (await watch.read()).status
        watch.cancel()
    if isinstance(served.server, GrpcioServer):
        assert {"", "ratelimit"} >= set(served.server._health_service._server_watchers)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="ratelimit"), timeout=10)
    assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status


async def test_grpcio_bounds_the_watches_and_their_names(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is held for as long as its peer likes. (The native transport bounds the bytes of a connection.)"""
    if not isinstance(served.server, GrpcioServer):
        return
    monkeypatch.setattr(grpcio, "_MOST_WATCHES", 2)
    stub = health_pb2_grpc.HealthStub(served.channel)

    async def code(name: str) -> grpc.StatusCode:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
        code: grpc.StatusCode = await watch.code()
        return code

    assert grpc.StatusCode.INVALID_ARGUMENT == await code("x" * 201)
    watches = [
        stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30) for name in ("ratelimit", "other")
    ]
    for watch in watches:
        await watch.read()
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == await code("ratelimit")
    watches[0].cancel()
    async with asyncio.timeout(10):
        while served.server._health_service._watches == 2:
            await asyncio.sleep(0.01)
    assert (
        health_pb2.HealthCheckResponse.SERVING
        == (await stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=10).read()).status
    )


async def test_health_watches_report_the_drain(served: Served) -> None:
    """NOT_SERVING comes before the port closes."""
    stub = health_pb2_grpc.HealthStub(served.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="ratelimit"), timeout=10)
    assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status
    await served.server.drain()
    assert health_pb2.HealthCheckResponse.NOT_SERVING == (await watch.read()).status
    assert RateLimitResponse.OK == (await served.call(CHECK)).overall_code
    watch.cancel()


async def test_a_call_in_hand_is_finished_before_the_server_stops(start: Start) -> None:
    """Stopping waits for the store's answer, within the grace."""
    served = await start(hold=True)
    call = asyncio.ensure_future(served.call(CHARGE_40))
    await until(lambda: bool(served.held))
    stopping = asyncio.ensure_future(served.server.stop(10))
    await asyncio.sleep(0)
    served.held[0]()
    assert RateLimitResponse.OK == (await call).overall_code
    await stopping


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with a call in hand"])
async def test_a_peer_that_does_not_listen_does_not_hold_up_the_stop(start: Start, busy: bool) -> None:
    """It never acknowledges that it was asked to leave. The grace is for calls, and they are finished."""
    served = await start(hold=True)
    peer = await Peer.connect(served.server.address)
    peer.send(h2.call(1, CHARGE_40))
    await until(lambda: bool(served.held))
    if not busy:
        served.held.pop()()
        assert 0 == (await peer.answer(1)).status
    stopping = asyncio.ensure_future(served.server.stop(600))
    if busy:
        await peer.until(h2.GOAWAY)
        served.held.pop()()
        assert 0 == (await peer.answer(1)).status
    await asyncio.wait_for(stopping, PATIENCE)
    peer.close()


async def test_a_unix_socket_serves_as_well(start: Start, tmp_path: Path) -> None:
    """GRPC_UDS takes the place of the port."""
    served = await start(GrpcOptions(address=f"unix:{tmp_path}/rls.sock"))
    assert RateLimitResponse.OK == (await served.call(CHECK)).overall_code


async def test_a_taken_port_is_one_clear_line(transport: str) -> None:
    """The server does not share a port with whoever has it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"cannot listen for gRPC on {address}: is the port taken"):
            await serve(GrpcOptions(address=address), transport)


async def test_a_connection_is_closed_at_its_age_without_a_failed_call(start: Start) -> None:
    """The client is told to go elsewhere, and its next call opens a new connection."""
    served = await start(GrpcOptions(max_connection_age=0.05, max_connection_age_grace=5))
    await served.call(CHECK)
    state = served.channel.get_state()
    while state is grpc.ChannelConnectivity.READY:
        await asyncio.wait_for(served.channel.wait_for_state_change(state), 10)
        state = served.channel.get_state()
    assert RateLimitResponse.OK == (await served.call(CHECK)).overall_code


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds; fails after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
