"""Health, and the stop of a server. The tests are black box, and the same for both transports."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimit_service.core.errors import StartError
from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports import grpcio
from ratelimit_service.transports.grpcio import GrpcioServer
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import PATIENCE, until

from . import h2
from .h2 import Peer
from .serving import CHARGE_40, CHECK, Served, Start, serve


async def test_one_connection_too_many_is_closed(start: Start) -> None:
    """The open connections continue. When one of them closes, there is room again."""
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
    """Its connection counts towards GRPC_MAX_CONNECTIONS."""
    monkeypatch.setattr("ratelimit_service.transports.grpcio._HANDSHAKE", 0.2)
    monkeypatch.setattr("ratelimit_service.transports.native.connection.PATIENCE", 0.2)
    served = await start(GrpcOptions())
    reader, writer = await asyncio.open_connection(*served.server.address.split(":"))
    async with asyncio.timeout(60):
        while await reader.read(1_000):
            pass
    writer.close()


async def test_grpcio_closes_connections_without_calls(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio closes them after five minutes, to free their places. Native closes them when places are
    needed.
    """
    monkeypatch.setattr(grpcio, "_MOST_IDLE", 0.2)
    served = await start(GrpcOptions())
    if served.server.TRANSPORT == "native":
        return
    peer = await Peer.connect(served.server.address)
    kinds = [frame.kind for frame in await peer.rest()]
    peer.close()
    assert h2.GOAWAY in kinds


async def test_calls_that_were_sent_before_the_peer_knows_the_bound_are_served(start: Start) -> None:
    """A gateway that connects with thousands of queued calls sends all headers at once, and most bodies as
    the window allows.
    """
    served = await start(GrpcOptions(), hold=True)
    window = h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))
    peer = await Peer.connect(served.server.address, h2.MAGIC + h2.settings() + window)
    streams = range(1, 6_001, 2)
    opening = h2.block(h2.CALL)
    peer.send(b"".join(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, opening) for stream in streams))
    for stream in streams:
        peer.send(h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(CHECK)))
    await until(lambda: served.server.in_hand == len(streams))
    for answer in served.held:
        answer()
    replied: set[int] = set()
    while len(replied) < len(streams):
        frame = await peer.frame()
        assert frame.kind not in (h2.RST_STREAM, h2.GOAWAY)
        if frame.kind == h2.DATA:
            replied.add(frame.stream)
    peer.close()


async def until_served(address: str) -> None:
    """Wait until a new connection is served."""
    async with asyncio.timeout(60):
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


async def test_health_follows_the_service(served: Served) -> None:
    """ "ratelimit" is SERVING while every component is healthy; "" is the process; other names are
    unknown.
    """
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
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)).status)


async def test_watched_names_of_unknown_services_are_not_kept(served: Served) -> None:
    """They stay unknown while they are watched. Existing services are answered as usual."""
    stub = health_pb2_grpc.HealthStub(served.channel)
    for number in range(50):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=f"made up {number}"), timeout=60)
        assert health_pb2.HealthCheckResponse.SERVICE_UNKNOWN == (await watch.read()).status
        watch.cancel()
    if isinstance(served.server, GrpcioServer):
        assert {"", "ratelimit"} >= set(served.server._health_service._server_watchers)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="ratelimit"), timeout=60)
    assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status


async def test_grpcio_bounds_the_watches_and_their_names(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer may hold a watch for any length of time. (The native transport bounds the bytes of a
    connection.)
    """
    if not isinstance(served.server, GrpcioServer):
        return
    monkeypatch.setattr(grpcio, "_MOST_WATCHES", 2)
    stub = health_pb2_grpc.HealthStub(served.channel)

    async def code(name: str) -> grpc.StatusCode:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=60)
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
    service = served.server._health_service
    await until(lambda: service._watches != 2)
    assert (
        health_pb2.HealthCheckResponse.SERVING
        == (await stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=60).read()).status
    )


async def test_health_watches_report_the_drain(served: Served) -> None:
    """NOT_SERVING is sent before the port closes."""
    stub = health_pb2_grpc.HealthStub(served.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="ratelimit"), timeout=60)
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
    """It never acknowledges the GOAWAY. The grace is for calls, and they are finished."""
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
    """The server does not share a port with another process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"cannot listen for gRPC on {address}: is the port taken"):
            await serve(GrpcOptions(address=address), transport)


async def test_a_connection_is_closed_at_its_age_without_a_failed_call(start: Start) -> None:
    """The client gets a GOAWAY, and opens a new connection for its next call."""
    served = await start(GrpcOptions(max_connection_age=0.05, max_connection_age_grace=5))
    await served.call(CHECK)
    state = served.channel.get_state()
    while state is grpc.ChannelConnectivity.READY:
        await asyncio.wait_for(served.channel.wait_for_state_change(state), 10)
        state = served.channel.get_state()
    assert RateLimitResponse.OK == (await served.call(CHECK)).overall_code
