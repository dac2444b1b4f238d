"""The service: makes and connects all parts, starts them in order and stops them in reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from .amending.follower import EVERY, Follower
from .amending.operations import Operations
from .amending.secret import SharedSecret, hold_ids
from .assembly.grpc_server import make_grpc_server, shares_of
from .assembly.http_ports import HttpPorts
from .assembly.operators import keep_events, keep_views, make_events, make_observers, make_views
from .assembly.rules import find_files, places_of, sources_of
from .assembly.service import make_service, make_tracing
from .assembly.stores import make_store, make_watch
from .core.amendments.index import Amendments
from .core.errors import StoreError
from .inspection.profiles import Profiles
from .inspection.refusals import Refusals
from .loading import reloading
from .loading.rulebook import Rulebook
from .loading.slices import in_slices
from .observe.decision_log import decision_log
from .observe.line_writer import LineWriter
from .observe.metrics import Metrics
from .observe.named_buckets import NamedBuckets
from .observe.pairing import Pairing
from .observe.tables import Sample
from .observe.tracking import Tracker
from .runtime import garbage
from .runtime.health import Health
from .runtime.tasks import Background
from .runtime.threads import StuckError, Thread
from .service import FORM, RateLimitService
from .settings.table import Settings
from .sources import files
from .stores.layers.layer import without_early_answers
from .workers.metrics import SharedMetrics
from .workers.worker_link import Addresses, NoSiblings, Opening, Siblings, WorkerLink

if TYPE_CHECKING:
    from .assembly.control_planes import ControlPlanes

_STORE_CHECK = 1.0
"""Seconds between two health checks of the store."""

_LAST_LINES = 2.0
"""Seconds at the stop for writing the rest of the decision log, and for sending the rest of the spans."""

_LAST_WORDS = 0.1
"""Seconds for writing the rest of the log when a second signal ends the process."""

_SWITCH_INTERVAL = 0.0001
"""Seconds that a thread keeps the GIL while another thread waits for it: calls wait while a thread writes
metrics, or reads rules where no process can be started for them. The event loop takes the GIL again after
each wait for the network, so a call waits about three times."""

_ONE_SIGNAL = 0.2
"""Seconds within which two signals count as one."""


class App:
    """One running service, or with a `member`, one of its workers."""

    def __init__(
        self, settings: Settings, log_writer: LineWriter | None = None, member: WorkerLink | None = None
    ) -> None:
        self._member = member
        self.siblings: Siblings = member or NoSiblings()
        self._settings = settings
        self._log_writer = log_writer
        self._log = structlog.get_logger("ratelimit_service")
        self._stopping = asyncio.Event()
        self._stopped_at = 0.0
        self._files = Thread("looking for changes of the rules")
        self.background = Background()
        self._following_rules = asyncio.Lock()
        self.health = Health()
        self.metrics = Metrics(
            settings.metrics_max_series, milliseconds=settings.prometheus_response_time_as_milliseconds
        )
        self.pairing = Pairing(self.metrics.rows_of_rules)
        self.watch = make_watch(settings, lambda: self.service.tree)
        self._tracing = make_tracing(settings, self.metrics)
        self.store = make_store(
            settings,
            self.metrics.observe_store,
            self.watch,
            self.metrics.watch,
            self.background,
            self._tracing,
        )
        if self.watch is not None:
            offset = partial(getattr, self.watch, "clock_offset")
            self.metrics.watch("ratelimit_service_redis_clock_offset_seconds", offset)
        if log_writer is not None:
            self.metrics.watch("ratelimit_service_log_dropped", lambda: log_writer.dropped)
        log = decision_log(settings.decision_log, settings.decision_log_sample)
        self._writers = [writer for writer in (log, self._tracing) if writer is not None]
        patient = without_early_answers(self.store)
        tracker = Tracker(time.time, settings.track_max_buckets)
        self._profiles = Profiles(patient)
        tracker.find_profile = self._profiles.of
        refusals = Refusals()
        self._events = make_events(self, settings, patient)
        observers = make_observers(self.metrics, patient, tracker, log, refusals, self._events)
        amendments, ids = Amendments(), hold_ids()
        self.service: RateLimitService = make_service(
            settings, self.store, observers, amendments, ids, self._tracing
        )
        policy = self.service.policy
        self._secret = SharedSecret(ids, self.store.amendments, lambda: self.service.tree)
        if self.watch is not None:
            self.metrics.watch("ratelimit_service_store_deadline_missed", lambda: self.service.missed)
        self._named_buckets = NamedBuckets(tracker, time.time, settings.track_max_buckets, patient.read_holds)
        self._unobserved = RateLimitService(
            patient, self._named_buckets, time.time, policy, amendments=amendments
        )
        services = (self.service, self._unobserved)
        self.follower = Follower(self.store.amendments, amendments, services, lambda: self.service.tree)
        self.operations = Operations(
            patient, amendments, self.follower, lambda: self.service.tree, settings.cache_key_prefix
        )
        for name in ("version", "age_seconds", "unreadable"):
            self.metrics.watch(f"ratelimit_service_amendments_{name}", partial(getattr, self.follower, name))
        self.metrics.watch("ratelimit_service_amendments", lambda: len(amendments))
        self._find = find_files(settings)
        self.rulebook = Rulebook(
            services,
            partial(files.read, self._find, places_of(settings), settings.manifest_domain),
            self.metrics,
            merge_domains=settings.merge_domain_config,
            budget_domains=frozenset(settings.budget_domains),
            sources=sources_of(settings),
            hold_entries=settings.hold_entries,
        )
        self.views = make_views(
            settings,
            patient,
            amendments,
            self.follower,
            self.rulebook,
            self._unobserved,
            refusals,
            self.siblings,
            self._profiles,
            member.hello.name if member is not None else "",
        )
        self.control_planes = self._make_control_planes()
        shares = shares_of(settings)
        self.grpc = make_grpc_server(
            settings,
            self.service,
            self.health,
            self.metrics.requested,
            self.metrics.watch,
            shares.grpc,
            listening=member.hello.listening if member is not None else None,
        )
        self.metrics.watch("ratelimit_service_calls_in_hand", lambda: self.grpc.in_hand)
        self.metrics.watch("ratelimit_service_healthy", lambda: self.health.healthy)
        self.background.expect("event_loop")
        self.metrics.show(self._background_failures)
        shown = SharedMetrics(self.metrics, tracker, member, settings.track_max_buckets)
        self.http = HttpPorts(self, settings, shown.whole, shares.http)

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP. Raises StartError if a port cannot be opened."""
        asyncio.get_running_loop().set_exception_handler(self._on_exception)
        self._handle_signals()
        garbage.enable_for_serving()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        try:
            if await self._started():
                await self._stopping.wait()
                await self.drain()
        finally:
            await self.stop()

    async def _started(self) -> bool:
        """Start, and return whether no signal came meanwhile, such as during the first load of rules."""
        starting = asyncio.create_task(self.start())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return False
            await starting
            return True
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    async def start(self) -> None:
        """Load the rules, open the ports, and begin to check the store and the rules' files."""
        self.health.set("config", self._ready_without_rules)
        if self._settings.backend_type == "memory":
            await self.store.start()
        else:
            self.health.set(self._settings.backend_type, False)
        if (member := self._member) is not None:
            await member.connect(self.health, self._take, self._lead_later, self.http.resign, self._orphaned)
        self.background.keep("amendments", self.follower.run)
        watcher = await self._start_rules()
        await self.follower.first_try()
        self.background.keep("hold_secret", self._secret.run)
        for writer in self._writers:
            writer.start()
        if self.control_planes is not None:
            self.control_planes.keep(self.background)
        if self._settings.backend_type == "memory":
            end = "are written to a file" if self._settings.memory_snapshot_path else "end with the process"
            self._log.warning(f"counters are kept in memory: they are not shared between replicas, and {end}")
        else:
            self.background.keep("store_health", self._check_store)
        opening = await self._member.may_open() if self._member is not None else Opening(True, {})
        if opening.leads:
            await self._lead(opening.addresses)
        await self.grpc.start()
        keep_views(self, self.background, self._profiles)
        keep_events(self._events, self.background)
        if watcher is not None:
            self.background.keep(
                "rules",
                lambda: reloading.follow(watcher.changed, self._load, self._files, again=self.rulebook.again),
            )
        serving = {
            "grpc": self.grpc.address,
            **({"grpc_plaintext": self.grpc.plaintext} if self.grpc.plaintext else {}),
            "transport": self.grpc.TRANSPORT,
            "decisions": FORM,
            **self.http.addresses,
            "store": self._settings.backend_type,
        }
        if self._member is None:
            self._log.info("serving", **serving)
        else:
            self._member.serving(serving)

    async def _lead(self, addresses: Addresses) -> None:
        """Open the HTTP ports, and begin what one process does for all workers. Raises StartError."""
        await self.http.start(addresses)
        self.background.keep("tracked_buckets", lambda: self._named_buckets.run(self._unobserved.submit))
        if self.watch is not None:
            self.background.keep("redis_watch", self.watch.run)
        keep_events(self._events, self.background, leads=True)
        if self._member is not None:
            self._member.leading(self.http.addresses)

    def _lead_later(self, addresses: Addresses) -> None:
        """Lead in the place of a worker that has ended."""
        self.background.keep("http", partial(self._lead, addresses))

    async def drain(self) -> None:
        """Report NOT_SERVING, and keep serving until gateways have noticed."""
        self.health.set("running", False)
        await self.grpc.drain()
        if delay := self._settings.shutdown_drain:
            self._log.info("draining", seconds=delay)
            await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Finish the calls in flight, then their batches in the store, then close."""
        await self.background.stop()
        await self.views.close()
        await self.grpc.stop(self._settings.shutdown_grace)
        if self._member is not None and self.http.are_open:  # health and metrics, until others have finished
            await self._member.alone(self._settings.shutdown_grace)
        await self.http.stop(self._settings.shutdown_grace)
        await self.store.close()
        await asyncio.gather(*[asyncio.to_thread(writer.close, _LAST_LINES) for writer in self._writers])
        if self._member is not None:
            await self._member.close()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._stopping.is_set():
            # A signal to a process group may arrive twice: from its sender, and from make or a shell that
            # forwards it.
            if now - self._stopped_at > _ONE_SIGNAL:
                if self._log_writer is not None:
                    self._log_writer.close(_LAST_WORDS)
                os._exit(128 + number)
            return
        self._stopped_at = now
        self._log.info("stopping", signal=signal.Signals(number).name)
        self._stopping.set()

    @property
    def _ready_without_rules(self) -> bool:
        settings = self._settings
        return (
            settings.force_start_without_initial_config
            and not settings.healthy_with_at_least_one_config_loaded
        )

    def _make_control_planes(self) -> ControlPlanes | None:
        if "GRPC_XDS_SOTW" not in self._settings.config_type:
            return None
        from .assembly.control_planes import ControlPlanes  # imports h2, which nothing else needs

        control_planes = ControlPlanes(self._settings, self.rulebook, self._in_force)
        self.metrics.show(control_planes.samples)
        return control_planes

    async def _start_rules(self) -> files.Watcher | None:
        """Load the first rules. Return the watcher of their files; None if they come from elsewhere."""
        watcher = None
        if self._member is not None:
            await self._member.first_rules()
        elif "FILE" in self._settings.config_type:
            watcher = await self._watcher()
            await self._load()
        if self.control_planes is not None:
            await self.control_planes.start()
        return watcher

    async def _watcher(self) -> files.Watcher:
        try:
            return await self._files.do(partial(files.Watcher, self._find), reloading.ANSWERS_WITHIN)
        except StuckError as error:
            self._log.error("the files of the rules do not answer", error=str(error))
            return files.Watcher(self._find, seen=())  # any file counts as changed once they answer

    async def _load(self) -> bool:
        """Load the rules. Return whether to try again soon, even if no file changes."""
        if await self.rulebook.load():
            await self._in_force()
        return self.rulebook.again

    async def _take(self, pieces: Sequence[bytes], agreed: Callable[[], Awaitable[None]]) -> bool:
        """Put in force what the supervisor has read, with all workers."""
        if not await self.rulebook.take(pieces, agreed):
            return False
        await self._in_force()
        return True

    def _orphaned(self) -> None:
        if not self._stopping.is_set():
            self._log.error("the supervisor has ended: its workers end as well")
            self._stopping.set()

    async def _in_force(self) -> None:
        """Update everything that depends on the rules in force."""
        async with self._following_rules:
            await in_slices(self._named_buckets.following(self.rulebook.domains))
        tree = self.service.tree
        needs_a_domain = self._settings.healthy_with_at_least_one_config_loaded
        self.health.set("config", bool(tree and tree.domains) or not needs_a_domain)

    def notes(self) -> Iterator[str]:
        """Say beside the rules what they do not say themselves."""
        if self.control_planes is not None:
            yield from self.control_planes.lines()
        if self.follower.version:
            yield str(self.follower.in_step)
        yield from map(str, self.pairing.unpaired)

    async def _check_store(self) -> None:
        reached: bool | None = None
        while True:
            try:
                await (self.store.ping() if reached else self.store.start())
            except StoreError as error:
                if reached is not False:
                    self._log.error("the store cannot be reached", error=str(error))
                reached = False
            except Exception:  # such as a reply that the driver cannot parse; Background logs it
                self.health.set(self._settings.backend_type, False)
                raise
            else:
                if not reached:
                    self._log.info("the store is reached")
                reached = True
            self.health.set(self._settings.backend_type, reached and self.follower.ready)
            await asyncio.sleep(_STORE_CHECK if self.follower.ready else EVERY)

    def _background_failures(self) -> Iterator[Sample]:
        for task, failures in self.background.failures():
            yield Sample("ratelimit_service_background_failures", {"task": task}, failures)

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.background.failed(
            "event_loop", context.get("message", "an unexpected error"), context.get("exception")
        )
