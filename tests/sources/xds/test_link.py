"""A real connection to a control plane, and its failures."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import thread_time

import pytest
import uvloop
from h2.errors import ErrorCodes

from ratelimit_service.proto.xds_pb2 import DiscoveryRequest, DiscoveryResponse
from ratelimit_service.sources.xds import link as link_module
from ratelimit_service.sources.xds.link import DiscoveryEnded, Link, Unreachable, connect
from ratelimit_service.sources.xds.response import TYPE_URL
from ratelimit_service.sources.xds.server import Server
from testing.control_plane import ControlPlane, Peer, resource
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import PATIENCE, until

from .links import LARGEST, A, at, received


@contextlib.asynccontextmanager
async def linked(plane: ControlPlane, keepalive: float = 0, largest: int = LARGEST) -> AsyncIterator[Link]:
    """Return a link that has sent its first request."""
    link = await connect(at(plane), largest, keepalive)
    link.send(DiscoveryRequest(type_url=TYPE_URL).SerializeToString())
    try:
        yield link
    finally:
        link.close()


async def peer_of(plane: ControlPlane) -> Peer:
    """Return the other end once it has the first request."""
    await until(lambda: plane.requests)
    return plane.peers[-1]


async def ended(link: Link) -> tuple[str, str]:
    """Return the end of the call."""
    with pytest.raises(DiscoveryEnded) as error:
        await asyncio.wait_for(link.receive(), PATIENCE)
    return error.value.end


async def test_requests_and_responses_go_both_ways(plane: ControlPlane) -> None:
    """One call, with the right path and headers, carries any number of them."""
    plane.send(A, version="7")
    link = await connect(at(plane, headers={"x-token": "s3cret"}), LARGEST, 0)
    for place in range(3):
        link.send(DiscoveryRequest(response_nonce=str(place or ""), type_url=TYPE_URL).SerializeToString())
        assert "7" == (await received(link)).version_info
    link.close()
    (headers,) = plane.headers
    assert (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        f"127.0.0.1:{plane.port}",
        ("POST", "http", "application/grpc", "trailers", "s3cret"),
    ) == (
        headers[":path"],
        headers[":authority"],
        tuple(headers[name] for name in (":method", ":scheme", "content-type", "te", "x-token")),
    )


async def test_a_message_may_arrive_in_any_pieces(plane: ControlPlane) -> None:
    """The boundaries of frames and of messages are independent."""
    async with linked(plane) as link:
        peer = await peer_of(plane)
        data = DiscoveryResponse(version_info="8").SerializeToString()
        framed = b"\0" + len(data).to_bytes(4, "big") + data
        peer.head()
        for place in range(len(framed)):
            peer._http.send_data(peer.stream, framed[place : place + 1])
            peer.flush()
            await asyncio.sleep(0)
        assert "8" == (await received(link)).version_info


async def test_only_the_last_of_several_received_sets_counts(plane: ControlPlane) -> None:
    """Each response is a complete set."""
    async with linked(plane) as link:
        peer = await peer_of(plane)
        for version in "123":
            peer.send(DiscoveryResponse(version_info=version).SerializeToString())
        await asyncio.sleep(0.05)
        assert "3" == (await received(link)).version_info


def test_a_set_of_many_megabytes_delays_no_call() -> None:
    """It is read in slices.

    uvloop, which the service uses, would read as long as there is data.
    """
    size = 16 << 20

    async def receive(port: int) -> int:
        link = await connect(Server("cp", "127.0.0.1", port), 4 * size, 0)
        link.send(DiscoveryRequest(type_url=TYPE_URL).SerializeToString())
        receiving = asyncio.ensure_future(link.receive())
        most = before = 0
        while not receiving.done():
            await asyncio.sleep(0)  # a turn of the event loop, in which calls are answered
            spool = link._call._spool
            taken = spool.size if spool is not None else before
            most, before = max(most, taken - before), taken
        assert receiving.result().size > size
        link.close()
        return most

    with ThreadedControlPlane() as served:
        served.send(resource("x" * size))
        most = uvloop.run(receive(served.plane.port))
    assert most < 1 << 20


async def test_a_set_that_is_too_large_ends_the_call_with_its_size(plane: ControlPlane) -> None:
    """The length prefix of the message is enough: the call ends before the set has arrived."""
    async with linked(plane) as link:
        (await peer_of(plane)).send(b"x" * (LARGEST + 1))
        assert (
            "RESOURCE_EXHAUSTED",
            f"its message has {LARGEST + 1} bytes, more than {LARGEST}: raise "
            "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
        ) == await ended(link)


ENDS: dict[str, tuple[Callable[[Peer], None], tuple[str, str]]] = {
    "status": (lambda peer: peer.end(14, "over%20there%0A"), ("UNAVAILABLE", "over there\n")),
    "strange status": (lambda peer: peer.end(99), ("UNKNOWN", "it has ended the call")),
    "ok": (lambda peer: peer.end(0), ("OK", "it has ended the call")),
    "reset without an error": (
        lambda peer: peer.reset(),
        ("UNAVAILABLE", "it has reset the call (NO_ERROR)"),
    ),
    "reset": (
        lambda peer: peer.reset(ErrorCodes.INTERNAL_ERROR),
        ("UNAVAILABLE", "it has reset the call (INTERNAL_ERROR)"),
    ),
    "goaway": (
        lambda peer: peer.goaway(),
        ("UNAVAILABLE", "it closes the connection (GOAWAY NO_ERROR)"),
    ),
    "too many pings": (
        lambda peer: peer.goaway(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings"),
        ("UNAVAILABLE", "it closes the connection (GOAWAY ENHANCE_YOUR_CALM, too_many_pings)"),
    ),
    "cut": (lambda peer: peer.cut(), ("UNAVAILABLE", "it has closed the connection")),
    "proxy": (lambda peer: peer.refuse("503"), ("UNAVAILABLE", "it answers with HTTP status 503")),
    "not found": (lambda peer: peer.refuse("404"), ("UNIMPLEMENTED", "it answers with HTTP status 404")),
    "html": (
        lambda peer: peer.head("200", "text/html"),
        ("UNKNOWN", "it answers with text/html"),
    ),
    "compressed": (
        lambda peer: peer.send(b"x", compressed=True),
        ("INTERNAL", "it sends a compressed message, although no compression was offered"),
    ),
}


@pytest.mark.parametrize("what", ENDS)
async def test_every_end_of_a_call_has_a_reason(plane: ControlPlane, what: str) -> None:
    """The link closes at once: after a GOAWAY, a server waits for its clients to leave."""
    async with linked(plane) as link:
        peer = await peer_of(plane)
        act, (code, why) = ENDS[what]
        act(peer)
        end_code, end_why = await ended(link)
        assert (code, True) == (end_code, end_why.startswith(why)), end_why
        link.send(b"nothing happens")  # and sending is harmless
        assert (end_code, end_why) == await ended(link)


async def test_a_peer_that_answers_no_ping_is_disconnected(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of a stuck process acknowledges all data, as does a proxy with a half-open connection."""
    monkeypatch.setattr(link_module, "_PONGS_WITHIN", 0.05)
    async with linked(plane, keepalive=0.05) as link:
        peer = await peer_of(plane)
        await asyncio.sleep(0.3)
        assert 1 == plane.connections  # pings that are answered do no harm
        peer.deaf = True
        assert ("UNAVAILABLE", "it has not answered a ping for 0.05 s") == await ended(link)


async def test_the_kernel_detects_a_peer_that_has_disappeared(plane: ControlPlane) -> None:
    """TCP keepalive detects it within a minute, without any HTTP/2 pings that a gRPC server could count."""
    async with linked(plane) as link:
        connection = link._transport.get_extra_info("socket")
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
        values = [connection.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        assert [30, 10, 3, 60_000] == values
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_refused_connection_is_reported_as_such(plane: ControlPlane) -> None:
    """A name that does not exist has its own error too."""
    await plane.stop()
    with pytest.raises(Unreachable, match=r"Connect call failed|Connection refused"):
        await connect(at(plane), LARGEST, 0)
    with pytest.raises(Unreachable, match=r"not known|No address|Temporary failure"):
        await connect(Server("cp", "control-plane.invalid", 18000), LARGEST, 0)


async def test_a_silent_peer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP/2 server sends SETTINGS at once."""
    monkeypatch.setattr(link_module, "_CONNECTS_WITHIN", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unreachable, match=r"no connection within 0\.1 s"),
    ):
        await connect(Server("cp", "127.0.0.1", silent.getsockname()[1]), LARGEST, 0)


async def test_a_peer_with_another_protocol_is_refused() -> None:
    """A web server, for example, would wait for the rest of a request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable, match="it does not speak HTTP/2"):
        await connect(Server("cp", "127.0.0.1", port), LARGEST, 0)
    await asyncio.wait_for(left.wait(), 10)
    server.close()


async def test_every_address_of_the_host_is_tried(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A headless Service has an address for each replica, and a dead replica may not answer at all."""
    monkeypatch.setattr(link_module, "_CONNECTS_WITHIN", 3)
    with socket.create_server(("127.0.0.2", plane.port)):  # accepts, and says nothing

        async def found(host: str, port: int, **more: object) -> list[object]:
            return [(0, 0, 0, "", (address, port)) for address in ("127.0.0.3", "127.0.0.2", "127.0.0.1")]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        link = await link_module._connect(at(plane), None, LARGEST, 0)
        assert "127.0.0.1" == link._transport.get_extra_info("peername")[0]
        link.close()


async def test_headers_that_are_not_text_end_the_call(plane: ControlPlane) -> None:
    """A status with other bytes is an example."""
    async with linked(plane) as link:
        peer = await peer_of(plane)
        peer.head()
        peer._http.config.header_encoding = None
        peer._http.send_headers(
            peer.stream, [(b"grpc-status", b"2"), (b"grpc-message", b"\xff")], end_stream=True
        )
        peer.flush()
        assert "INTERNAL" == (await ended(link))[0]


async def test_a_unix_socket_can_be_used(tmp_path: Path) -> None:
    """The address has gRPC's syntax."""
    plane = ControlPlane()
    path = str(tmp_path / "xds.sock")
    server = await asyncio.get_running_loop().create_unix_server(lambda: Peer(plane), path)
    plane.send(A, version="7")
    link = await connect(Server("cp", path=path), LARGEST, 0)
    link.send(DiscoveryRequest(type_url=TYPE_URL).SerializeToString())
    assert ("7", "localhost") == ((await received(link)).version_info, plane.headers[0][":authority"])
    link.close()
    server.close()


async def test_sets_that_are_not_read_yet_are_replaced(plane: ControlPlane) -> None:
    """Some control planes send a set with every change, whether the last one was answered or not. Each set
    may have 64 MiB, and reading one takes seconds.
    """
    async with linked(plane) as link:
        peer = await peer_of(plane)
        before = len(spools())
        for version in range(50):
            peer.send(DiscoveryResponse(version_info=str(version)).SerializeToString())
        await until(lambda: link._call._unanswered >= 50)
        assert len(spools()) <= before + 1
        assert "49" == (await received(link)).version_info


def spools() -> list[str]:
    """Return the open files with messages."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the directory itself
            found.append(str(path.readlink()))
    return [name for name in found if name.startswith("/memfd:xds")]


async def test_a_flood_of_sets_ends_the_call(plane: ControlPlane) -> None:
    """Each empty message has five bytes, and takes a file."""
    async with linked(plane) as link:
        peer = await peer_of(plane)
        peer.head()
        peer._http.send_data(peer.stream, bytes(5 * 1_001))
        peer.flush()
        assert 0 == (await asyncio.wait_for(link.receive(), PATIENCE)).size
        assert (
            "RESOURCE_EXHAUSTED",
            "it sends set after set without waiting for an answer",
        ) == await ended(link)


PINGS = 30_000


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_flood_of_small_frames_delays_no_call(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """They are processed in slices, and while the peer does not read, the answers to its pings do not pile
    up.
    """

    async def flood() -> tuple[float, int]:
        running = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            listening.setblocking(False)
            connecting = asyncio.ensure_future(
                connect(Server("cp", "127.0.0.1", listening.getsockname()[1]), LARGEST, 0)
            )
            peer, _ = await running.sock_accept(listening)
            with peer:
                await running.sock_sendall(peer, b"\0\0\0\x04\0\0\0\0\0")  # SETTINGS
                link = await connecting
                link._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096
                )
                sending = asyncio.ensure_future(
                    running.sock_sendall(peer, b"\0\0\x08\x06\0\0\0\0\0pingpong" * PINGS)
                )
                longest = most = 0.0
                turned = thread_time()
                while not link._full:  # which waits for the peer
                    await asyncio.sleep(0)
                    now = thread_time()
                    longest, turned = max(longest, now - turned), now
                    most = max(most, link._transport.get_write_buffer_size())
                assert not link._transport.is_reading()
                answers = bytearray()
                while answers.count(b"pingpong") < PINGS:
                    answers += await running.sock_recv(peer, 1 << 20)
                await sending
                link.close()
        return longest, int(most)

    with asyncio.Runner(loop_factory=loop) as runner:
        longest, most = runner.run(asyncio.wait_for(flood(), PATIENCE))
    assert (True, True) == (longest < 0.05, most < 1 << 18), (longest, most)
