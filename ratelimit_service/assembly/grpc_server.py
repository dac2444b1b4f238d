"""Creates the gRPC server of the settings, and divides the connections among all ports."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ..core.errors import StartError
from ..listening.addresses import Address
from ..listening.certificates import Certificates
from ..runtime import descriptors
from ..runtime.descriptors import Shares
from ..runtime.health import Health
from ..service import RateLimitService
from ..settings.table import Settings
from ..transports.choice import native_server
from ..transports.contract import GrpcServer, OnAnswered
from ..transports.options import GrpcOptions


def shares_of(settings: Settings) -> Shares:
    """Return the limit of connections for each port, so that all of them fit the limit of open files."""
    pools = 0
    if settings.backend_type == "redis":
        # Twice, for the few connections to each sentinel or to each server of a Cluster.
        pools = 2 * settings.redis_pool_size
        if settings.redis_persecond:
            pools += 2 * settings.redis_persecond_pool_size
    most, wanted = descriptors.limit(), settings.grpc_max_connections
    shares = descriptors.shared(most, grpc=wanted, http_ports=2 + settings.use_prometheus, redis=pools)
    if shares.grpc < wanted:
        structlog.get_logger("ratelimit_service").warning(
            "GRPC_MAX_CONNECTIONS does not fit the limit of open files: raise it (ulimit -n), "
            "or set fewer connections",
            wanted=wanted,
            open_files=most,
            connections=shares.grpc,
        )
    return shares


def make_grpc_server(
    settings: Settings,
    service: RateLimitService,
    health: Health,
    on_answered: OnAnswered,
    show: Callable[[str, Callable[[], float]], None] = lambda metric, read: None,
    most_connections: int | None = None,
    *,
    listening: int | None = None,
) -> GrpcServer:
    """Return the gRPC server that the settings describe, not yet started. Raises StartError.

    Without GRPC_TRANSPORT it is the native one where that can be used.

    Its metrics are passed to `show`. `most_connections` replaces GRPC_MAX_CONNECTIONS. With `listening` (the
    descriptor of a Unix socket, or -1) it is one of several workers.
    """
    options = GrpcOptions(
        address=f"unix:{settings.grpc_uds}"
        if settings.grpc_uds
        else str(Address(settings.grpc_host.strip("[]"), settings.grpc_port)),
        max_connection_age=settings.grpc_max_connection_age,
        max_connection_age_grace=settings.grpc_max_connection_age_grace,
        max_message_bytes=settings.grpc_max_message_bytes,
        max_concurrent_calls=settings.grpc_max_concurrent_calls,
        max_connections=settings.grpc_max_connections if most_connections is None else most_connections,
        max_connection_bytes=settings.grpc_max_connection_bytes,
        max_bytes=settings.grpc_max_bytes,
        request_timeout=settings.grpc_request_timeout,
        certificates=grpc_certificates(settings),
        shared=listening is not None,
        listening=-1 if listening is None else listening,
        client_name=settings.grpc_client_tls_san if settings.grpc_server_use_tls else "",
        plaintext=str(Address(settings.grpc_host.strip("[]"), settings.grpc_plaintext_port))
        if settings.grpc_plaintext_port is not None
        else "",
    )
    native = (
        None if settings.grpc_transport == "grpcio" else native_server(settings.grpc_transport == "native")
    )
    # Only the transport in use is imported: each takes megabytes.
    if native is None:
        from ..transports.grpcio import GrpcioServer

        return GrpcioServer(service, health, options, on_answered)
    server = native(service, health, options, on_answered)
    metric = "ratelimit_service_grpc_"
    show(f"{metric}connections", lambda: len(server.peers))
    show(f"{metric}held_bytes", lambda: server.turn.budget.held)
    show(f"{metric}connections_closed", lambda: server.peers.closed)
    return server


def grpc_certificates(settings: Settings) -> Certificates | None:
    """Return the certificates of the gRPC port; None without TLS. Raises StartError."""
    given = {
        "GRPC_SERVER_TLS_CERT": settings.grpc_server_tls_cert,
        "GRPC_SERVER_TLS_KEY": settings.grpc_server_tls_key,
        "GRPC_CLIENT_TLS_CACERT": settings.grpc_client_tls_cacert,
        "GRPC_CLIENT_TLS_SAN": settings.grpc_client_tls_san,
    }
    if not settings.grpc_server_use_tls:
        if idle := [name for name, value in given.items() if value]:
            structlog.get_logger("ratelimit_service").warning(
                f"the gRPC port is served without TLS: set GRPC_SERVER_USE_TLS=true for {', '.join(idle)} "
                "to mean anything"
            )
        return None
    certificate, key, clients, name = given.values()
    if not (certificate and key):
        raise StartError(
            "GRPC_SERVER_USE_TLS needs GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY: give the paths of two "
            "PEM files"
        )
    if name and not clients:
        raise StartError(
            "GRPC_CLIENT_TLS_SAN needs GRPC_CLIENT_TLS_CACERT: without it, no client is asked for a "
            "certificate"
        )
    return Certificates("gRPC", certificate, key, clients)
