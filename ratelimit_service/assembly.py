"""Makes the parts that the settings describe."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from .core.answers.refusal import Spread
from .core.bounds import RequestBounds
from .core.errors import StartError
from .core.matching.tree import RuleTree
from .core.plan import FailureMode, Policy
from .core.prepared import Jitter
from .core.windows.blocks import length
from .deadlines import Patience
from .listening.addresses import Address
from .listening.certificates import Certificates
from .loading.rulebook import FILES
from .ports import CounterStore
from .runtime import descriptors
from .runtime.descriptors import Shares
from .runtime.health import Health
from .runtime.tasks import Background
from .service import RateLimitService
from .settings.redis_target import RedisTarget, RedisType, credentials
from .settings.table import Settings
from .sources import files
from .stores.layers.group_commit import CoalescingStore
from .stores.layers.local_cache import LocalCache
from .transports.choice import native_server
from .transports.contract import GrpcServer, OnAnswered
from .transports.options import GrpcOptions

if TYPE_CHECKING:
    from .stores.memory import MemoryStore
    from .stores.redis.cluster import ClusterStore
    from .stores.redis.server import RedisStore
    from .stores.redis.watchdog import RedisWatchdog
    from .tracing.tracing import Tracing


def make_store(
    settings: Settings,
    observe: Callable[[float], None] = lambda seconds: None,
    watch: RedisWatchdog | None = None,
    show: Callable[[str, Callable[[], float]], None] = lambda metric, read: None,
    background: Background | None = None,
    tracing: Tracing | None = None,
) -> CounterStore:
    """Return the store that the settings describe, not yet connected.

    `observe` gets the seconds of each round trip, `watch` each Redis that has counters, `show` the metrics of
    the layers above them. `background` runs their background tasks. `tracing` notes the calls of scripts.
    """
    if settings.backend_type == "memory":
        memory = _memory_store(settings)
        show("ratelimit_service_memory_store_refused", lambda: memory.refused)
        show("ratelimit_service_memory_store_bytes", lambda: memory.bytes)
        show("ratelimit_service_ledger_missed", lambda: memory.unrecorded)
        if settings.memory_snapshot_path:
            show("ratelimit_service_memory_snapshot_failures", partial(getattr, memory, "failures"))
        return memory
    # Only the store in use is imported: redis-py takes a tenth of a second and 6 MB.
    from .stores.layers.per_second import PerSecondStore
    from .stores.layers.settling import SettlingStore

    layers: list[SettlingStore] = []
    stores: list[RedisStore | ClusterStore] = []

    def settled(store: RedisStore | ClusterStore, *, keeps_days: bool = True) -> CounterStore:
        if watch is not None:
            watch.add(store, keeps_days=keeps_days)
        stores.append(store)
        backend = tracing.backend(store) if tracing is not None else store
        layers.append(SettlingStore(backend, settings.store_journal_size, background=background))
        return CoalescingStore(layers[-1])

    store = settled(redis_store(settings, observe, background))
    if settings.redis_persecond:
        seconds = settled(redis_store_for_seconds(settings, observe, background), keeps_days=False)
        store = PerSecondStore(store, seconds)
    metric = "ratelimit_service_store_"
    show(f"{metric}failures", lambda: sum(layer.failures for layer in layers))
    show(f"{metric}circuit_open", lambda: any(layer.open for layer in layers))
    show(f"{metric}journal_hits", lambda: sum(layer.journal.hits for layer in layers))
    show(f"{metric}journal_dropped", lambda: sum(layer.journal.dropped for layer in layers))
    show(f"{metric}holds_refused", lambda: sum(each.unheld for each in stores))
    show("ratelimit_service_ledger_missed", lambda: sum(each.unrecorded for each in (*stores, *layers)))
    if not settings.local_cache_size_in_bytes:
        return store
    cache = LocalCache(store, settings.local_cache_size_in_bytes, time.monotonic)
    show("ratelimit_service_local_cache_refusals", lambda: cache.answered)
    return cache


def _memory_store(settings: Settings) -> MemoryStore:
    if not settings.memory_snapshot_path:
        from .stores.memory import MemoryStore

        return MemoryStore(time.monotonic, settings.memory_store_size_in_bytes)
    from .stores.snapshot import KeptMemoryStore

    return KeptMemoryStore(
        time.monotonic,
        Path(settings.memory_snapshot_path),
        settings.memory_snapshot_interval,
        settings.memory_store_size_in_bytes,
    )


def redis_store(
    settings: Settings, observe: Callable[[float], None], background: Background | None = None
) -> RedisStore | ClusterStore:
    """Return the store that the REDIS_ settings describe."""
    return _redis_store(
        settings,
        settings.redis,
        observe,
        background,
        auth_file=settings.redis_auth_file,
        sentinel_auth=settings.redis_sentinel_auth.reveal(),
        tls=settings.redis_tls,
        pool_size=settings.redis_pool_size,
        timeout=settings.redis_timeout,
    )


def redis_store_for_seconds(
    settings: Settings, observe: Callable[[float], None], background: Background | None = None
) -> RedisStore | ClusterStore:
    """Return the store that the REDIS_PERSECOND_ settings describe."""
    return _redis_store(
        settings,
        settings.redis_for_seconds,
        observe,
        background,
        auth_file=settings.redis_persecond_auth_file,
        sentinel_auth=settings.redis_persecond_sentinel_auth.reveal(),
        tls=settings.redis_persecond_tls,
        pool_size=settings.redis_persecond_pool_size,
        timeout=settings.redis_persecond_timeout,
    )


def _redis_store(
    settings: Settings,
    target: RedisTarget,
    observe: Callable[[float], None],
    background: Background | None,
    *,
    auth_file: str,
    sentinel_auth: str,
    tls: bool,
    pool_size: int,
    timeout: float,
) -> RedisStore | ClusterStore:
    from .stores.redis.client import Link, Login, Tls, at_address, at_socket, through_sentinels

    certificates = Tls(
        settings.redis_tls_cacert,
        settings.redis_tls_client_cert,
        settings.redis_tls_client_key,
        not settings.redis_tls_skip_hostname_verification,
        settings.redis_tls_server_name,
    )
    link = Link(
        Login(target.username, target.password, auth_file),
        target.database,
        certificates if tls or target.tls else None,
        pool_size,
        timeout,
        settings.redis_connect_timeout,
    )
    prefix = settings.cache_key_prefix
    if target.kind is RedisType.CLUSTER:
        from .stores.redis.cluster import ClusterStore

        connect = partial(at_address, link=link)
        return ClusterStore(
            connect, target.servers, observe, patience=timeout / 4, prefix=prefix, background=background
        )
    from .stores.redis.server import RedisStore

    if target.kind is RedisType.SENTINEL:
        login = Login(*credentials(sentinel_auth))
        return RedisStore(through_sentinels(target.master, target.servers, link, login), observe, prefix)
    at = at_socket(target.path, link) if target.path else at_address(target.servers[0], link)
    return RedisStore(at, observe, prefix)


def make_watch(settings: Settings, tree: Callable[[], RuleTree | None]) -> RedisWatchdog | None:
    """Return the watch over Redis; None with the memory store. `tree` returns the rules in force."""
    if settings.backend_type == "memory":
        return None
    from .stores.redis.watchdog import RedisWatchdog

    return RedisWatchdog(time.time, lambda: counts_for_days(tree()))


def counts_for_days(tree: RuleTree | None) -> bool:
    """Return whether a rule has a window of a day or longer."""
    return tree is not None and any(
        length(limit.window) >= 86_400 for rule in tree.rules for limit in rule.limits
    )


def policy_of(settings: Settings) -> Policy:
    """Return the settings that influence answers."""
    headers = settings.limit_response_headers_enabled
    return Policy(
        near_limit_ratio=settings.near_limit_ratio,
        shadow_mode=settings.shadow_mode,
        quota_mode=settings.quota_mode,
        stop_when_over=settings.stop_cache_key_increment_when_overlimit,
        key_prefix=settings.cache_key_prefix,
        limit_header=settings.limit_limit_header if headers else "",
        remaining_header=settings.limit_remaining_header if headers else "",
        reset_header=settings.limit_reset_header if headers else "",
        dynamic_metadata=settings.response_dynamic_metadata,
        bounds=RequestBounds(settings.request_max_descriptors, settings.request_max_entries),
        failure_mode=FailureMode(settings.store_failure_mode),
        refusal_headers=settings.refusal_headers,
        error_format="" if settings.refusal_body == "none" else settings.refusal_body,
        error_details=settings.refusal_details,
        retry_within=int(settings.refusal_retry_within),
        hold_entries=settings.hold_entries,
        ietf_fields=settings.ietf_ratelimit_fields == "draft-11",
    )


def patience_of(settings: Settings) -> Patience:
    """Return how long calls wait for the store."""
    return Patience(settings.store_answer_margin, settings.store_answer_deadline)


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
            "GRPC_MAX_CONNECTIONS does not fit the limit of open files: raise it (ulimit -n), or set fewer connections",
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

    Its metrics are passed to `show`. `most_connections` replaces GRPC_MAX_CONNECTIONS. With `listening` (the descriptor of
    a Unix socket, or -1) it is one of several workers.
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
        from .transports.grpcio import GrpcioServer

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
                f"the gRPC port is served without TLS: set GRPC_SERVER_USE_TLS=true for {', '.join(idle)} to mean anything"
            )
        return None
    certificate, key, clients, name = given.values()
    if not (certificate and key):
        raise StartError(
            "GRPC_SERVER_USE_TLS needs GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY: give the paths of two PEM files"
        )
    if name and not clients:
        raise StartError(
            "GRPC_CLIENT_TLS_SAN needs GRPC_CLIENT_TLS_CACERT: without it, no client is asked for a certificate"
        )
    return Certificates("gRPC", certificate, key, clients)


def http_certificates(settings: Settings) -> Certificates | None:
    """Return the certificates of the HTTP ports; None without TLS. Raises StartError."""
    certificate, key = settings.http_tls_cert, settings.http_tls_key
    if bool(certificate) != bool(key):
        raise StartError("HTTP_TLS_CERT and HTTP_TLS_KEY belong together: give both, or none")
    return Certificates("HTTP", certificate, key) if certificate else None


def jitter_of(settings: Settings) -> Jitter:
    """Return a function that draws how much longer than its window a counter is kept.

    It returns 0 to EXPIRATION_JITTER_MAX_SECONDS - 1 seconds.
    """
    most = settings.expiration_jitter_max_seconds
    # As random as a draw for each counter, and faster.
    return itertools.cycle(random.choices(range(max(most, 1)), k=10_007)).__next__


def spread_of(settings: Settings) -> Spread:
    """Return a function that draws the jitter of retry-after: 0 to REFUSAL_RETRY_JITTER, in whole seconds."""
    most = int(settings.refusal_retry_jitter)
    return itertools.cycle(random.choices(range(most + 1), k=10_007)).__next__ if most else lambda: 0


def sources_of(settings: Settings) -> list[str]:
    """Return the names of the sources of rules; an earlier source takes precedence."""
    names = {
        "FILE": [FILES],
        "GRPC_XDS_SOTW": [source_of(url.name) for url in settings.config_grpc_xds_server_url],
    }
    return [name for kind in settings.config_type for name in names[kind]]


def source_of(server: str) -> str:
    """Return the name of a control plane as a source of rules."""
    return f"xds {server}"


def places_of(settings: Settings) -> str:
    """Return where configuration files are searched, as text for people."""
    if settings.config_path:
        return ", ".join(settings.config_path)
    place = files.joined(settings.runtime_root, settings.runtime_subdirectory, settings.runtime_appdirectory)
    return f"{place} (CONFIG_PATH is not set)"


def find_files(settings: Settings) -> files.Find:
    """Return what finds the configuration files: by CONFIG_PATH, or by upstream's RUNTIME_* variables."""
    if settings.config_path:
        return files.find_in([Path(path) for path in settings.config_path])
    return files.runtime(
        settings.runtime_root,
        settings.runtime_subdirectory,
        settings.runtime_appdirectory,
        watch_root=settings.runtime_watch_root,
        ignore_dot_files=settings.runtime_ignoredotfiles,
    )
