"""Rules over xDS: a follower for each control plane, overlays, and the status of all."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from ..api.response_types import ControlPlane
from ..api.response_types import ControlPlanes as Shown
from ..api.serializers import moment_or_null
from ..core.errors import InvalidRules, Problem, StartError
from ..core.text import printable
from ..loading import reloading
from ..loading.rulebook import Rulebook
from ..observe.tables import Sample
from ..ports import ChangeOutcome, RuleChange
from ..runtime.tasks import Background
from ..runtime.threads import Thread
from ..settings.table import Settings
from ..settings.types import host_port, read_bool
from ..settings.xds import ServerUrl
from ..sources import files
from ..sources.xds.backoff import Backoff
from ..sources.xds.cache import Cache
from ..sources.xds.clock import SystemClock
from ..sources.xds.follower import Follower, Options
from ..sources.xds.link import connect
from ..sources.xds.overlays import Overlays, by_domain
from ..sources.xds.server import Server, Tls
from ..sources.xds.status import ControlPlaneStatus
from ..version import version
from .rules import source_of

_LARGEST = 64 << 20
"""The most bytes of a set if XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES is 0."""

_MOST_SHOWN = 100
"""Problems, and domains, that the API shows of a control plane."""

_OUTCOMES = ("accepted", "unchanged", "rejected")


class ControlPlanes:
    """All control planes of the settings.

    `in_force` is called after each change of the rules. Raises StartError.
    """

    def __init__(
        self, settings: Settings, rulebook: Rulebook, in_force: Callable[[], Awaitable[None]]
    ) -> None:
        self._overlay_files = files.find_in([Path(path) for path in settings.xds_overlays])
        self._has_overlays = bool(settings.xds_overlays)
        self._overlays: Overlays = {}
        self._overlay_problems: Sequence[Problem] = ()
        self._unused: frozenset[str] = frozenset()
        self._thread = Thread("looking for changes of the overlays")
        self._again = False
        self._rulebook = rulebook
        self._in_force = in_force
        self._budget_domains = settings.budget_domains
        self._log = structlog.get_logger(__name__)
        self._followers = [self._follower(url, settings) for url in settings.config_grpc_xds_server_url]

    def _follower(self, url: ServerUrl, settings: Settings) -> Follower:
        server = server_of(url, settings)
        largest = settings.xds_client_max_msg_size_in_bytes or _LARGEST
        return Follower(
            server,
            _Rules(source_of(server.name), self._rulebook, self._in_force, self._warn_of_unused),
            partial(connect, server, largest, settings.xds_keepalive),
            Backoff(
                settings.xds_client_backoff_initial_interval,
                settings.xds_client_backoff_max_interval,
                settings.xds_client_backoff_random_factor,
                jitter=settings.xds_client_backoff_jitter,
                random=random.random,
            ),
            SystemClock(),
            lambda: self._overlays,
            Options(
                version(),
                settings.xds_domain_grace,
                settings.xds_strict,
                Cache(Path(settings.xds_cache_dir), server.name, server.node_id)
                if settings.xds_cache_dir
                else None,
            ),
        )

    async def start(self) -> None:
        """Read the overlays and the saved sets."""
        if self._has_overlays:
            self._again = await self._load_overlays()
        for follower in self._followers:
            await follower.restore()

    def keep(self, background: Background) -> None:
        """Start to follow the control planes and the overlay files."""
        for follower in self._followers:
            background.keep(source_of(follower.standing.server), follower.run)
        if self._has_overlays:
            watcher = files.Watcher(self._overlay_files, seen=())
            background.keep(
                "overlays",
                lambda: reloading.follow(
                    watcher.changed, self._load_overlays, self._thread, again=self._again
                ),
            )

    def lines(self) -> Iterator[str]:
        """Return the lines for /rlconfig."""
        for follower in self._followers:
            yield from follower.standing.lines()
        for problem in self._overlay_problems:
            yield f"overlays: {printable(str(problem))}; the previous overlays stay in force"

    def status(self) -> Shown:
        """Return the status for the API."""
        return {
            "control_planes": [_shown(follower.standing) for follower in self._followers],
            "overlay_problems": [printable(str(each)) for each in self._overlay_problems[:_MOST_SHOWN]],
        }

    def samples(self) -> Iterator[Sample]:
        """Return the samples of the metrics."""
        for follower in self._followers:
            standing = follower.standing
            server = {"server": standing.server}
            prefix = "ratelimit_service_xds_"
            yield Sample(f"{prefix}connected", server, standing.connected)
            yield Sample(f"{prefix}generation", server, standing.generation)
            yield Sample(f"{prefix}accepted_time_seconds", server, standing.accepted_at)
            yield Sample(f"{prefix}response_time_seconds", server, standing.answered_at)
            yield Sample(f"{prefix}response_bytes", server, standing.response_bytes)
            yield Sample(f"{prefix}stale_since_seconds", server, standing.stale_since)
            for state, domains in (
                ("in_force", standing.domains),
                ("rejected", standing.refused),
                ("missing", len(standing.missing)),
            ):
                yield Sample(f"{prefix}domains", {**server, "state": state}, domains)
            for outcome in _OUTCOMES:
                sets = standing.responses[outcome]
                yield Sample(f"{prefix}responses", {**server, "outcome": outcome}, sets)
            for code, times in standing.ends.copy().items():
                yield Sample(f"{prefix}calls_ended", {**server, "code": code}, times)

    async def _load_overlays(self) -> bool:
        """Read the overlays. Return whether to try again although no file changes."""
        try:
            documents, problems, _ = await self._thread.do(
                partial(files.read, self._overlay_files, "overlays"), reloading.ANSWERS_WITHIN
            )
        except InvalidRules as error:
            self._refuse(error.problems)
            return error.again
        overlays, more = by_domain(documents)
        if problems or more:
            self._refuse([*problems, *more])
            return False
        self._overlay_problems = ()
        if overlays == self._overlays:
            return False
        self._overlays = overlays
        self._log.info("overlays loaded", domains=len(overlays))
        self._unused = frozenset()
        again = [not await follower.overlaid() for follower in self._followers]
        self._warn_of_unused()
        return any(again)

    def _refuse(self, problems: Sequence[Problem]) -> None:
        self._overlay_problems = tuple(problems)
        for problem in problems:
            self._log.error(
                "an overlay is invalid: the previous overlays stay in force", problem=str(problem)
            )

    def _warn_of_unused(self) -> None:
        """Warn once about domains of overlays and of BUDGET_DOMAINS that no source has."""
        if not all(follower.standing.generation for follower in self._followers):
            return
        there = {domain.name for domain in self._rulebook.domains}
        unused = frozenset({*self._overlays, *self._budget_domains} - there)
        for domain in sorted(unused - self._unused):
            where = "an overlay" if domain in self._overlays else "BUDGET_DOMAINS"
            self._log.warning("no source has a domain", domain=printable(domain), named_in=where)
        self._unused = unused


def _shown(standing: ControlPlaneStatus) -> ControlPlane:
    return {
        "server": printable(standing.server),
        "connected": standing.connected,
        "since": moment_or_null(standing.since),
        "error": (standing.why or None) if not standing.connected else None,
        "generation": standing.generation,
        "hash": standing.digest or None,
        "version": standing.version or None,
        "accepted_at": moment_or_null(standing.accepted_at),
        "answered_at": moment_or_null(standing.answered_at),
        "stale_since": moment_or_null(standing.stale_since),
        "domains": standing.domains,
        "rejected_domains": standing.refused,
        "rejected": list(standing.rejected[:_MOST_SHOWN]),
        "missing": list(standing.missing[:_MOST_SHOWN]),
    }


class _Rules:
    """One source in the rulebook (ports.Rules)."""

    def __init__(
        self,
        source: str,
        rulebook: Rulebook,
        changed: Callable[[], Awaitable[None]],
        settled: Callable[[], None],
    ) -> None:
        self._source = source
        self._rulebook = rulebook
        self._changed = changed
        self._settled = settled

    async def change(self, change: RuleChange) -> ChangeOutcome:
        """See ports.Rules."""
        taken = await self._rulebook.change(self._source, change)
        if taken.changed:
            await self._changed()
        return taken

    def hidden(self) -> Mapping[str, Problem]:
        """See ports.Rules."""
        return self._rulebook.combined.hidden(self._source)

    def blame(self, problems: Sequence[Problem]) -> None:
        """See ports.Rules."""
        self._rulebook.blame(self._source, problems)
        self._settled()


def server_of(url: ServerUrl, settings: Settings) -> Server:
    """Return a control plane of the settings. Raises StartError."""
    more = url.more
    path = url.address.removeprefix("unix:") if url.address.startswith("unix:") else ""
    host, port = ("", 0) if path else host_port(url.address)
    certificate = more.get("client_tls_cert", settings.config_grpc_xds_client_tls_cert)
    key = more.get("client_tls_key", settings.config_grpc_xds_client_tls_key)
    tls = None
    if read_bool(more["use_tls"]) if "use_tls" in more else settings.config_grpc_xds_server_use_tls:
        if bool(certificate) != bool(key):
            raise StartError(
                "CONFIG_GRPC_XDS_CLIENT_TLS_CERT and CONFIG_GRPC_XDS_CLIENT_TLS_KEY belong together: give "
                "both, or none"
            )
        tls = Tls(
            more.get("server_tls_san", settings.config_grpc_xds_server_tls_san) or host or "localhost",
            more.get("server_tls_cacert", settings.config_grpc_xds_server_tls_cacert),
            certificate,
            key,
        )
    return Server(
        url.name,
        host,
        port,
        path,
        more.get("node_id", settings.config_grpc_xds_node_id),
        settings.config_grpc_xds_node_metadata,
        settings.config_grpc_xds_client_additional_headers,
        tls,
    )
