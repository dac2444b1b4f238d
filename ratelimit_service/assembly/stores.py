"""Creates the store of the settings with its layers, and the watchdog of Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.matching.tree import RuleTree
from ..core.windows.blocks import length
from ..ports import CounterStore
from ..runtime.tasks import Background
from ..settings.redis_target import RedisTarget, RedisType, credentials
from ..settings.table import Settings
from ..stores.layers.group_commit import CoalescingStore
from ..stores.layers.local_cache import LocalCache

if TYPE_CHECKING:
    from ..stores.memory import MemoryStore
    from ..stores.redis.cluster import ClusterStore
    from ..stores.redis.server import RedisStore
    from ..stores.redis.watchdog import RedisWatchdog
    from ..tracing.tracing import Tracing


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
    from ..stores.layers.per_second import PerSecondStore
    from ..stores.layers.settling import SettlingStore

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
        from ..stores.memory import MemoryStore

        return MemoryStore(time.monotonic, settings.memory_store_size_in_bytes)
    from ..stores.snapshot import KeptMemoryStore

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
    from ..stores.redis.client import Link, Login, Tls, at_address, at_socket, through_sentinels

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
        from ..stores.redis.cluster import ClusterStore

        connect = partial(at_address, link=link)
        return ClusterStore(
            connect, target.servers, observe, patience=timeout / 4, prefix=prefix, background=background
        )
    from ..stores.redis.server import RedisStore

    if target.kind is RedisType.SENTINEL:
        login = Login(*credentials(sentinel_auth))
        return RedisStore(through_sentinels(target.master, target.servers, link, login), observe, prefix)
    at = at_socket(target.path, link) if target.path else at_address(target.servers[0], link)
    return RedisStore(at, observe, prefix)


def make_watch(settings: Settings, tree: Callable[[], RuleTree | None]) -> RedisWatchdog | None:
    """Return the watch over Redis; None with the memory store. `tree` returns the rules in force."""
    if settings.backend_type == "memory":
        return None
    from ..stores.redis.watchdog import RedisWatchdog

    return RedisWatchdog(time.time, lambda: counts_for_days(tree()))


def counts_for_days(tree: RuleTree | None) -> bool:
    """Return whether a rule has a window of a day or longer."""
    return tree is not None and any(
        length(limit.window) >= 86_400 for rule in tree.rules for limit in rule.limits
    )
