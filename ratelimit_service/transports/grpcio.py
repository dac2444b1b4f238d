"""gRPC on grpcio: the transport that runs everywhere, and the reference for the behaviour of transports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, ClassVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..core.errors import Overloaded, RateLimitServiceError, StartError
from ..core.trace_context import TRACEPARENT, TRACESTATE, TraceHeaders, sent_in
from ..listening.addresses import PLAINTEXT, Address, SocketPath, taken
from ..listening.certificates import Certificates, is_for
from ..runtime.health import SERVICE_NAME, Health
from ..service import RateLimitService
from . import reflection
from .codec import Codec
from .contract import TOO_MANY_CALLS, OnAnswered, ignore_answered
from .grpc_method import METHOD, SERVICE, status_of
from .options import GrpcOptions

_HANDSHAKE = 10.0
"""Seconds for a peer to complete the handshake of HTTP/2, TLS included."""

_LEAST_STREAMS = 10_000
"""Concurrent calls that one connection may always have, even if GRPC_MAX_CONCURRENT_CALLS is smaller; further
ones are refused with RESOURCE_EXHAUSTED."""

_LAST_WORD = 0.1
"""Seconds in which health watches report NOT_SERVING, and the last answers are sent."""

_LONGEST_NAME, _MOST_WATCHES = 200, 1_000
"""Characters of the name in a health watch, and concurrent watches; both are kept until the peer disconnects.
"""

_MOST_REFLECTIONS = 100
"""Concurrent streams of reflection."""

_MOST_IDLE = 300.0
"""Seconds without a stream after which a connection ends, gracefully, so that idle ones do not use up
GRPC_MAX_CONNECTIONS for long: grpc does not say which ones are idle when the limit is reached."""

_TRACE_HEADERS = TRACEPARENT.decode(), TRACESTATE.decode()

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """A contract.GrpcServer, which serves reflection as well."""

    TRANSPORT: ClassVar[str] = "grpcio"

    def __init__(
        self,
        service: RateLimitService,
        health: Health,
        options: GrpcOptions,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        self._service = service
        if service.traced:
            logging.getLogger("grpc._cython.cygrpc").addFilter(_is_of_no_header)
        self._options = options
        self._on_answered = on_answered
        self._codec = Codec(service.policy.bounds, service.policy.hold_entries)
        self.in_hand = 0
        """The calls that were read and are not yet answered."""
        self._calls_of: dict[str, int] = {}
        """Those of each connection, by its address."""
        self._server = aio.server(options=_channel_options(options))
        self._leaving = False
        self._answered = asyncio.Event()
        """Set when no call is in flight, while the server stops."""
        self._reflections = 0
        self._health = health
        self._health_service = _HealthService()
        self._announcing: set[asyncio.Task[None]] = set()
        self._path: SocketPath | None = None
        self.address = options.address
        """The address that it listens on, once started."""
        self.plaintext = options.plaintext
        """The second address, without TLS, once started; empty if there is none."""

    async def start(self) -> None:
        """Open the ports. Raises StartError if one cannot be opened."""
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: self._handler()}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health_service, self._server)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, self._reflecting()) for name in reflection.SERVICES]
        )
        self._listen()
        if self.plaintext:
            self.plaintext = self._listen_at(self.plaintext, None, PLAINTEXT)
        # "" stands for the process, which is SERVING until it drains: a liveness probe must not restart it
        # while Redis is down.
        await self._health_service.set("", health_pb2.HealthCheckResponse.SERVING)
        self._health.listen(self._announce)
        await self._server.start()

    def _listen(self) -> None:
        """Open the first port or socket. Raises StartError."""
        address = self._options.address
        if address.startswith("unix:"):
            # grpc removes any file at the path that it binds, before binding and again when it stops. So it
            # gets a path that no other process uses, and that no longer exists when it stops.
            self._path = SocketPath(address.removeprefix("unix:"))
            if not self._open(f"unix:{self._path.claim()}", self._options.certificates):
                self._path.release()
                raise StartError(f"cannot listen for gRPC on {address}: is the path too long?")
            self._path.publish()
            return
        self.address = self._listen_at(address, self._options.certificates, "gRPC")

    def _listen_at(self, address: str, certificates: Certificates | None, what: str) -> str:
        """Open a port, and return its address. Raises StartError."""
        wanted = Address.of(address)
        if not self._options.shared:
            # Try the address first: grpc gives no reason if it cannot listen, and is content with one of two
            # address families.
            wanted.listen(what).close()
        port = self._open("[::]:" + str(wanted.port) if wanted.is_every else _numeric(wanted), certificates)
        if not port:
            raise StartError(f"cannot listen for {what} on {address}: {taken(what)}")
        return str(wanted._replace(port=port))

    def _open(self, address: str, certificates: Certificates | None) -> int:
        """Return the port that grpc listens on: 1 for a path, 0 if it cannot."""
        try:
            if certificates is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(certificates))
        except RuntimeError:
            return 0

    async def drain(self) -> None:
        """Report NOT_SERVING from now on (contract.GrpcServer)."""
        await self._health_service.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and give those in flight `grace` seconds (contract.GrpcServer)."""
        self._health_service.leave()
        if self._path is not None:
            self._path.release()
        # grpc waits for each peer to acknowledge the GOAWAY, up to the whole grace, which is meant for calls.
        stopping = asyncio.ensure_future(self._server.stop(grace))
        self._leaving = True
        if self.in_hand:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._answered.wait()
        await asyncio.wait((stopping,), timeout=_LAST_WORD)
        await self._server.stop(None)
        await stopping

    def _handler(self) -> Any:
        # Bytes in, bytes out: codec.py decodes, so that an invalid message gets INVALID_ARGUMENT.
        return grpc.unary_unary_rpc_method_handler(self._should_rate_limit)

    async def _should_rate_limit(self, data: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        room = self._options.max_concurrent_calls - self.in_hand
        peer = context.peer()
        mine = self._calls_of.get(peer, 0)
        # A connection may have as many as all others may still add. Unix sockets have no addresses to tell
        # them apart.
        if room <= 0 or (mine > room and not peer.startswith("unix:")):
            overloaded = Overloaded(TOO_MANY_CALLS)
            self._service.refused_early(_trace_of(context) if self._service.traced else None, overloaded)
            return _failed(context, overloaded)
        trace = _trace_of(context) if self._service.traced else None
        started = time.perf_counter()
        submitted = False
        self._calls_of[peer] = mine + 1
        self.in_hand += 1
        try:
            if self._options.client_name:
                self._check_client(context)
            request = self._codec.decode(data)
            submitted = True
            # grpc.aio cancels this task at the caller's deadline. That only ends the wait: the store has
            # received the hits before the first await, and counts them.
            decision = await self._service.should_rate_limit(request, _timeout(context), trace)
            return self._codec.encode_for(self._service.tree)(decision)
        except RateLimitServiceError as error:
            if not submitted:
                self._service.refused_early(trace, error)
            return _failed(context, error)
        finally:
            self.in_hand -= 1
            if left := self._calls_of[peer] - 1:
                self._calls_of[peer] = left
            else:
                del self._calls_of[peer]
            if self._leaving and not self.in_hand:
                self._answered.set()
            self._on_answered(METHOD, time.perf_counter() - started)

    def _check_client(self, context: aio.ServicerContext[Any, Any]) -> None:
        """Raise Forbidden unless the client's certificate, which grpc has verified, has the required name."""
        peer = context.auth_context()
        if self.plaintext and peer.get("transport_security_type") != [b"ssl"]:
            return
        if not is_for(peer.get("peer_dns", ()), self._options.client_name):
            raise self._options.forbidden()

    def _reflecting(self) -> dict[str, Any]:
        return {reflection.METHOD: grpc.stream_stream_rpc_method_handler(self._reflect)}

    async def _reflect(self, questions: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        if self._reflections >= _MOST_REFLECTIONS:
            await _abort(context, Overloaded(f"{self._reflections} streams of reflection are open already"))
        self._reflections += 1
        try:
            async for question in questions:
                if len(question) > reflection.LARGEST:
                    raise Overloaded(f"the message is larger than {reflection.LARGEST} bytes")
                yield reflection.reflection().answer(question)
        except RateLimitServiceError as error:
            _failed(context, error)
        finally:
            self._reflections -= 1

    def _announce(self, healthy: bool) -> None:
        serving = (
            health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        self._soon(self._health_service.set(SERVICE_NAME, serving))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)


class _HealthService(health.aio.HealthServicer):  # type: ignore[misc]  # its types are skipped (pyproject.toml)
    """grpc.health.v1. Its watches end when the server stops, otherwise each would last for the whole
    grace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._leaving = asyncio.Event()
        self._watches = 0

    def leave(self) -> None:
        """End all watches. They have already reported NOT_SERVING (`enter_graceful_shutdown`)."""
        self._leaving.set()

    async def Watch(self, request: Any, context: Any) -> None:
        """See grpc.health.v1."""
        if len(request.service) > _LONGEST_NAME:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the name of a service has {_LONGEST_NAME} characters at most",
            )
        if self._watches >= _MOST_WATCHES:
            await _abort(context, Overloaded(f"{self._watches} watches are open already"))
        self._watches += 1
        try:
            await self._watch(request, context)
        finally:
            self._watches -= 1

    async def _watch(self, request: Any, context: Any) -> None:
        # The base class keeps an entry for each name that was ever watched.
        known = request.service in ("", SERVICE_NAME)
        watching = asyncio.ensure_future(
            super().Watch(request, context) if known else _watch_unknown(context)
        )
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((watching, leaving), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((watching,), timeout=_LAST_WORD)
        finally:
            leaving.cancel()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _watch_unknown(context: Any) -> None:
    """Watch a service that does not exist."""
    await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
    await asyncio.Event().wait()


def _failed(context: aio.ServicerContext[Any, Any], error: RateLimitServiceError) -> bytes:
    """Answer with an error.

    `abort` would raise, and the traceback would be part of a cycle that keeps the request.
    """
    status = status_of(error)
    context.set_code(_CODES[status.number])
    context.set_details(status.message)
    return b""


async def _abort(context: aio.ServicerContext[Any, Any], error: RateLimitServiceError) -> None:
    status = status_of(error)
    await context.abort(_CODES[status.number], status.message)


def _timeout(context: aio.ServicerContext[Any, Any]) -> int:
    """Return how many milliseconds the caller still waits; -1 if it has no deadline."""
    seconds: float | None = context.time_remaining()  # None is missing in grpc-stubs
    return -1 if seconds is None else int(seconds * 1_000)


def _is_of_no_header(record: logging.LogRecord) -> bool:
    """Return whether to log a line of grpc: not if it is about a header that is not UTF-8, because any peer
    can send thousands.
    """
    return not str(record.msg).startswith("Invalid encoding")


def _trace_of(context: aio.ServicerContext[Any, Any]) -> TraceHeaders:
    """Return the trace context that the caller has sent. grpc has removed space around values.

    Metadata are untrusted and may have any characters, so nothing here may raise.
    """
    return sent_in(
        [
            (name.encode(), value.encode("utf-8", "replace") if isinstance(value, str) else value)
            for name, value in context.invocation_metadata() or ()
            if name in _TRACE_HEADERS
        ]
    )


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials for TLS 1.2 and up.

    Before each handshake, grpc calls `configuration` in its own thread for new certificates.
    """

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = certificates.material
        pair = material.key, material.certificate
        return grpc.ssl_server_certificate_configuration([pair], material.clients or None)

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        lambda: configuration() if certificates.renewed() else None,  # type: ignore[arg-type, return-value]  # None: no change
        require_client_authentication=bool(certificates.material.clients),
    )


def _numeric(address: Address) -> str:
    """Return an address in the form of grpc, with names resolved. Raises OSError."""
    family, place = address.resolved()
    if family == socket.AF_INET:
        return f"{place[0]}:{place[1]}"
    host, port, _, scope = place
    return f"[{host.partition('%')[0]}%{scope}]:{port}" if scope else f"[{host}]:{port}"


def _channel_options(options: GrpcOptions) -> list[tuple[str, Any]]:
    streams = max(_LEAST_STREAMS, options.max_concurrent_calls)
    return [
        # By default two processes can share a port, and one left over by mistake would get half of the calls.
        ("grpc.so_reuseport", int(options.shared)),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        # A gateway that connects while it has many calls sends them before it knows this bound, and grpc
        # would refuse those beyond.
        ("grpc.max_concurrent_streams", streams),
        # Beyond these, by default 1,000 and 3,000, grpc refuses calls that were not begun yet, at random and
        # UNAVAILABLE.
        ("grpc.server.max_pending_requests", streams),
        ("grpc.server.max_pending_requests_hard_limit", streams),
        ("grpc.max_allowed_incoming_connections", options.max_connections),
        # A peer that connects and stays silent counts as a connection, by default for two minutes.
        ("grpc.server_handshake_timeout_ms", _milliseconds(_HANDSHAKE)),
        # grpc adds a jitter of a tenth to each connection; this one is for replicas that were started
        # together.
        (
            "grpc.max_connection_age_ms",
            _milliseconds(options.max_connection_age * random.uniform(0.95, 1.05)),
        ),
        ("grpc.max_connection_age_grace_ms", _milliseconds(options.max_connection_age_grace)),
        ("grpc.max_connection_idle_ms", _milliseconds(_MOST_IDLE)),
        # Gateways keep a connection for days; let them ping it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]


def _milliseconds(seconds: float) -> int:
    """Return milliseconds for grpc's options. 0 means no limit; in grpc, the largest 32-bit integer does."""
    return max(1, min(int(seconds * 1_000), 2**31 - 1)) if seconds else 2**31 - 1
