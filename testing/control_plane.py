"""A control plane for tests, which sends sets of rules over xDS and can violate the protocol in every way.

It uses h2 for HTTP/2, so that a test controls every frame. It answers like go-control-plane's SnapshotCache:
at once if the version of a request differs from that of its set, otherwise when the set changes. So it sends
a rejected set again at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError

from ratelimit_service.proto.xds_pb2 import DiscoveryRequest, DiscoveryResponse, RateLimitConfig, Resource

TYPE_URL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
UNITS = ("", "SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR", "WEEK")


def resource(domain: str, *descriptors: dict[str, Any], name: str | None = None) -> RateLimitConfig:
    """Return a RateLimitConfig with descriptors in the form of a configuration file."""
    config = RateLimitConfig(name=(domain if name is None else name).encode(), domain=domain.encode())
    for each in descriptors:
        _describe(config.descriptors.add(), each)
    return config


def _describe(message: Any, said: dict[str, Any]) -> None:
    for key, value in said.items():
        match key:
            case "key" | "value":
                setattr(message, key, value.encode())
            case "rate_limit":
                limit = dict(value)
                message.rate_limit.SetInParent()
                if "unit" in limit:
                    unit = limit.pop("unit")
                    message.rate_limit.unit = unit if isinstance(unit, int) else UNITS.index(unit.upper())
                if "name" in limit:
                    message.rate_limit.name = limit.pop("name").encode()
                for name in limit.pop("replaces", ()):
                    message.rate_limit.replaces.add(name=name.encode())
                for name, amount in limit.items():
                    setattr(message.rate_limit, name, amount)
            case "metadata":
                message.metadata.update(value)
            case "descriptors":
                for child in value:
                    _describe(message.descriptors.add(), child)
            case _:
                setattr(message, key, value)


def limit(key: str, amount: int, unit: str | int = "hour", **more: Any) -> dict[str, Any]:
    """Return a descriptor with a limit."""
    return {"key": key, "rate_limit": {"unit": unit, "requests_per_unit": amount}, **more}


class ControlPlane:
    """Listens on 127.0.0.1:`port`, with TLS if there is a context. After `stop`, `start` uses the same port.

    `requests` has every request, in their order. `silent_to` has node ids that are never answered.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._nonces = 0
        self.port = 0
        self.peers: list[Peer] = []
        self.requests: list[DiscoveryRequest] = []
        self.connections = 0
        self.headers: list[dict[str, str]] = []
        self.version = ""
        self.resources: Sequence[Resource] = ()
        self.type_url = TYPE_URL
        self.nodes: set[str] | None = None
        self.on_request: Callable[[Peer], bool] = lambda peer: False
        """Called for each request; if it returns True, there is no other answer."""

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection, and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for peer in tuple(self.peers):
            peer.cut()
        await asyncio.sleep(0)

    @property
    def address(self) -> str:
        """ "127.0.0.1:43211"."""
        return f"127.0.0.1:{self.port}"

    @property
    def rejections(self) -> list[str]:
        """The messages of all rejections."""
        return [request.error_detail.message for request in self.requests if request.HasField("error_detail")]

    def send(self, *configs: RateLimitConfig | Resource, version: str | None = None) -> None:
        """Replace the set, and send it to each peer that waits for one."""
        self.version = str(int(self.version or "0") + 1) if version is None else version
        self.resources = [
            each
            if isinstance(each, Resource)
            else Resource(type_url=TYPE_URL, value=each.SerializeToString())
            for each in configs
        ]
        for peer in tuple(self.peers):
            if peer.waits_with is not None and peer.waits_with != self.version:
                self.answer(peer)

    def answer(self, peer: Peer) -> None:
        """Send the set to a peer."""
        self._nonces += 1
        peer.nonce, peer.waits_with = str(self._nonces), None
        response = DiscoveryResponse(
            version_info=self.version, resources=self.resources, type_url=self.type_url, nonce=peer.nonce
        )
        peer.send(response.SerializeToString())

    def asked(self, peer: Peer, request: DiscoveryRequest) -> None:
        """Handle a request of a peer."""
        self.requests.append(request)
        if self.nodes is not None and request.node.id not in self.nodes:
            return
        if peer.nonce and request.response_nonce != peer.nonce:
            return
        if self.on_request(peer):
            return
        first = not peer.nonce
        if (self.version or self.resources) and (
            request.version_info != self.version or (first and self.resources)
        ):
            self.answer(peer)
        else:
            peer.waits_with = request.version_info


class Peer(asyncio.Protocol):
    """One connection. `waits_with` is the version of the peer while it waits for another one."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._transport: Any = None
        self._received = bytearray()
        self._unsent = bytearray()
        self._headed = False
        self.stream = 0
        self.nonce = ""
        self.waits_with: str | None = None
        self.deaf = False
        """Whether it neither reads nor answers, like a stopped process."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport
        self._control_plane.connections += 1
        self._control_plane.peers.append(self)
        self._http.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self in self._control_plane.peers:
            self._control_plane.peers.remove(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.deaf:
            return
        try:
            events = self._http.receive_data(data)
        except ProtocolError:
            self._transport.close()
            return
        for event in events:
            match event:
                case RequestReceived():
                    self.stream = event.stream_id
                    self._control_plane.headers.append(
                        {str(name): str(value) for name, value in event.headers}
                    )
                case DataReceived():
                    self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self._received += event.data
                    self._read()
                case WindowUpdated():
                    self._pump()
                case StreamEnded() | StreamReset() | PingReceived():
                    pass
        self.flush()

    def _read(self) -> None:
        while len(self._received) >= 5:
            length = int.from_bytes(self._received[1:5], "big")
            if len(self._received) < 5 + length:
                return
            message = bytes(self._received[5 : 5 + length])
            del self._received[: 5 + length]
            self._control_plane.asked(self, DiscoveryRequest.FromString(message))

    def head(self, status: str = "200", content_type: str = "application/grpc") -> None:
        """Send the headers of the answer, unless they were sent."""
        if not self._headed:
            self._headed = True
            self._http.send_headers(self.stream, [(":status", status), ("content-type", content_type)])
            self.flush()

    def send(self, message: bytes, *, compressed: bool = False) -> None:
        """Send a message, in as many pieces as the peer has room for."""
        self.head()
        self._unsent += bytes([compressed]) + len(message).to_bytes(4, "big") + message
        self._pump()
        self.flush()

    def _pump(self) -> None:
        while self._unsent:
            room = min(self._http.local_flow_control_window(self.stream), self._http.max_outbound_frame_size)
            if room <= 0:
                return
            self._http.send_data(self.stream, bytes(self._unsent[:room]))
            del self._unsent[:room]

    def end(self, code: int, message: str = "") -> None:
        """End the call with a gRPC status."""
        self.head()
        self._http.send_headers(
            self.stream, [("grpc-status", str(code)), ("grpc-message", message)], end_stream=True
        )
        self.flush()

    def refuse(self, status: str) -> None:
        """Answer with an HTTP status, as a proxy does."""
        self._http.send_headers(self.stream, [(":status", status)], end_stream=True)
        self.flush()

    def reset(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Send RST_STREAM."""
        self._http.reset_stream(self.stream, code)
        self.flush()

    def goaway(self, code: ErrorCodes = ErrorCodes.NO_ERROR, why: bytes = b"") -> None:
        """Send GOAWAY; the call continues."""
        self._http.close_connection(code, why or None, self.stream)
        self.flush()

    def write(self, data: bytes) -> None:
        """Send bytes, which need not be valid HTTP/2."""
        self._transport.write(data)

    def cut(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def flush(self) -> None:
        """Send all pending output."""
        if data := self._http.data_to_send():
            self._transport.write(data)
