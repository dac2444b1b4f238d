"""gRPC by grpcio: the transport that runs everywhere, and the reference for how a transport behaves."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..core.errors import Overloaded, RateLimitServiceError, StartError
from ..listening.addresses import Address, SocketPath
from ..listening.certificates import Certificates, is_for
from ..runtime.health import SERVICE_NAME, Health
from ..service import RateLimitService
from . import codec, reflection
from .grpc_method import METHOD, SERVICE, status_of
from .options import GrpcOptions, Requested

_HANDSHAKE = 10.0
"""Seconds that a peer has for introducing itself, TLS included."""

_LAST_WORD = 0.1
"""Seconds that a watch of the health has to say that the server leaves, and the last answers to be sent."""

_LONGEST_NAME, _MOST_WATCHES = 200, 1_000
"""Characters of the name of a service whose health is watched, and how many watch: a watch holds both until its peer leaves."""

_MOST_REFLECTIONS = 100
"""Streams of reflection at once."""

_MOST_STREAMS = 1_000
"""Calls of one connection at once; grpc itself has no bound."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """ShouldRateLimit, health and reflection on one address."""

    TRANSPORT = "grpcio"

    def __init__(
        self,
        service: RateLimitService,
        health_state: Health,
        options: GrpcOptions,
        requested: Requested = lambda method, seconds, calls=1: None,
    ) -> None:
        self._service = service
        self._options = options
        self._requested = requested
        self.in_hand = 0
        """Calls read and not yet answered."""
        self._server = aio.server(options=_channel_options(options))
        self._leaving = False
        self._answered = asyncio.Event()
        """Set once there are no calls in hand, while the server leaves."""
        self._reflections = 0
        self._health = _Health()
        self._announcing: set[asyncio.Task[None]] = set()
        self._health_state = health_state
        self._path: SocketPath | None = None
        self.address = options.address
        """Where it listens, once started."""
        self.plaintext = options.plaintext
        """Where it listens without TLS, once started; empty: nowhere else."""

    async def start(self) -> None:
        """Open the ports. Raises StartError where one is taken."""
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: self._handler()}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, self._reflecting()) for name in reflection.SERVICES]
        )
        self._listen()
        if self.plaintext:
            self.plaintext = self._listen_at(self.plaintext, None)
        # "" is the process, and stays SERVING until it drains: a liveness probe must not restart it because Redis is down.
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._health_state.listen(self._announce)
        await self._server.start()

    def _listen(self) -> None:
        """Open the port. Raises StartError."""
        address = self._options.address
        if address.startswith("unix:"):
            # grpc removes what it finds where it binds and, when it stops, what it finds there then. It knows a name that is
            # nobody else's, and is gone by then.
            self._path = SocketPath(address.removeprefix("unix:"))
            if not self._open(f"unix:{self._path.claim()}", self._options.certificates):
                self._path.release()
                raise StartError(f"cannot listen for gRPC on {address}: is the path too long?")
            self._path.publish()
            return
        self.address = self._listen_at(address, self._options.certificates)

    def _listen_at(self, address: str, certificates: Certificates | None) -> str:
        """Open a port, and return where it is. Raises StartError."""
        wanted = Address.of(address)
        # grpc does not say why it cannot listen, and is content with one of two families.
        wanted.listen("gRPC").close()
        port = self._open("[::]:" + str(wanted.port) if wanted.is_every else _numeric(wanted), certificates)
        if not port:
            raise StartError(f"cannot listen for gRPC on {address}: is the port taken?")
        return str(wanted._replace(port=port))

    def _open(self, address: str, certificates: Certificates | None) -> int:
        """The port that grpc listens on, 0 where it cannot; of a path it is 1."""
        try:
            if certificates is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(certificates))
        except RuntimeError:
            return 0

    async def drain(self) -> None:
        """Tell those who watch the health that this server is leaving; calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and give those in hand `grace` seconds."""
        self._health.leave()
        if self._path is not None:
            self._path.release()
        # grpc waits for each peer to acknowledge that it was asked to leave, for all of the grace where one does not. That is meant
        # for calls.
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
        # Bytes in, bytes out: codec.py decodes, so that a message that is none gets INVALID_ARGUMENT.
        return grpc.unary_unary_rpc_method_handler(self._should_rate_limit)

    async def _should_rate_limit(self, data: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        if self.in_hand >= self._options.max_concurrent_calls:
            return _failed(context, Overloaded(f"{self.in_hand} calls are in hand already"))
        self.in_hand += 1
        started = time.perf_counter()
        try:
            if self._options.client_name:
                self._check_client(context)
            request = codec.decode(data, self._service.policy.bounds)
            # grpc.aio cancels this task at the caller's deadline. Only the waiting ends then: the hits were handed to
            # the store before the first await, and are counted.
            return codec.encode(await self._service.should_rate_limit(request, _timeout(context)))
        except RateLimitServiceError as error:
            return _failed(context, error)
        finally:
            self.in_hand -= 1
            if self._leaving and not self.in_hand:
                self._answered.set()
            self._requested(METHOD, time.perf_counter() - started)

    def _check_client(self, context: aio.ServicerContext[Any, Any]) -> None:
        """Raise Forbidden unless the caller's certificate, which grpc has verified, has the name that callers must have."""
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
        self._soon(self._health.set(SERVICE_NAME, serving))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # its types are skipped (pyproject.toml)
    """grpc.health.v1, whose watchers are let go when the server leaves.

    A watch has no end of its own: each would keep the server for the whole of the grace that is meant for calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self._leaving = asyncio.Event()
        self._watches = 0

    def leave(self) -> None:
        """End all watches, once they have said NOT_SERVING (`enter_graceful_shutdown`)."""
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
        # grpc's own keeps an entry for each name that was ever asked for.
        known = request.service in ("", SERVICE_NAME)
        watching = asyncio.ensure_future(super().Watch(request, context) if known else _never_known(context))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((watching, leaving), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((watching,), timeout=_LAST_WORD)
        finally:
            leaving.cancel()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _never_known(context: Any) -> None:
    """Watch a service that does not exist, and never will."""
    await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
    await asyncio.Event().wait()


def _failed(context: aio.ServicerContext[Any, Any], error: RateLimitServiceError) -> bytes:
    """Answer with an error. Not by `abort`, which raises: its traceback is a cycle that holds the request."""
    status = status_of(error)
    context.set_code(_CODES[status.number])
    context.set_details(status.message)
    return b""


async def _abort(context: aio.ServicerContext[Any, Any], error: RateLimitServiceError) -> None:
    status = status_of(error)
    await context.abort(_CODES[status.number], status.message)


def _timeout(context: aio.ServicerContext[Any, Any]) -> int:
    """Milliseconds that the caller still waits; -1 where it has no deadline (grpc-stubs know no None)."""
    seconds: float | None = context.time_remaining()
    return -1 if seconds is None else int(seconds * 1_000)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """TLS 1.2 and up, which is what grpc does; before each handshake it asks for what has changed, in a thread of its own."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = certificates.material
        pair = material.key, material.certificate
        return grpc.ssl_server_certificate_configuration([pair], material.clients or None)

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        lambda: configuration() if certificates.renewed() else None,  # type: ignore[arg-type, return-value]  # None: keep it
        require_client_authentication=bool(certificates.material.clients),
    )


def _numeric(address: Address) -> str:
    """An address as grpc reads it, with the place that a name stands for. Raises OSError."""
    family, place = address.resolved()
    if family == socket.AF_INET:
        return f"{place[0]}:{place[1]}"
    host, port, _, scope = place
    return f"[{host.partition('%')[0]}%{scope}]:{port}" if scope else f"[{host}]:{port}"


def _channel_options(options: GrpcOptions) -> list[tuple[str, Any]]:
    return [
        # Without this two processes share a port, and a forgotten one takes half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
        ("grpc.max_allowed_incoming_connections", options.max_connections),
        # A peer that connects and says nothing has one of these places, for two minutes by default.
        ("grpc.server_handshake_timeout_ms", _milliseconds(_HANDSHAKE)),
        # grpc adds a jitter of a tenth of its own; ours keeps replicas apart that were started together.
        (
            "grpc.max_connection_age_ms",
            _milliseconds(options.max_connection_age * random.uniform(0.95, 1.05)),
        ),
        ("grpc.max_connection_age_grace_ms", _milliseconds(options.max_connection_age_grace)),
        # Gateways keep one connection for days; let them ask whether it is alive.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]


def _milliseconds(seconds: float) -> int:
    """As grpc's options want it: a positive 32-bit integer. 0 is without end, as in Go; grpc has the largest for that."""
    return max(1, min(int(seconds * 1_000), 2**31 - 1)) if seconds else 2**31 - 1
