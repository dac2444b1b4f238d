"""The status of a control plane, for metrics, /rlconfig and the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from ...core.errors import Problem
from ...core.rfc3339 import moment as rfc3339
from ...core.text import printable
from .reading import named
from .subscription import Subscription

_LOG = structlog.get_logger(__name__)


@dataclass(slots=True)
class ControlPlaneStatus:
    """The status of one control plane. Times are seconds since 1970; 0 is never."""

    server: str
    connected: bool = False
    since: float = 0.0
    """The time of the last change of `connected`."""
    why: str = ""
    """The reason why it is not connected."""
    generation: int = 0
    """The number of different sets that have been in force."""
    version: str = ""
    digest: str = ""
    accepted_at: float = 0.0
    """The time at which the set in force was taken."""
    answered_at: float = 0.0
    """The time of the last response."""
    stale_since: float = 0.0
    """The time since which the rules may be out of date, or 0."""
    domains: int = 0
    refused: int = 0
    """The number of rejected domains."""
    rejected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    response_bytes: int = 0
    responses: Counter[str] = field(default_factory=Counter)
    """The number of sets that were accepted, unchanged, or rejected as a whole or in part."""
    ends: Counter[str] = field(default_factory=Counter)
    """The number of ended calls and failed connections, by gRPC status."""

    _said: str = ""
    """The reason in the last log line."""

    def here(self, now: float) -> None:
        """Record a new call."""
        self.connected, self.since, self.why, self._said = True, now, "", ""
        _LOG.info("the control plane is connected", server=self.server)

    def away(self, now: float, code: str, why: str) -> None:
        """Record the end of a call or a failed connection. Each reason is logged once."""
        self.ends[code] += 1
        if self.connected or not self.since:
            self.connected, self.since = False, now
        if self.generation and not self.stale_since:
            self.stale_since = now
        self.why = printable(why)
        if self.why != self._said:
            self._said = self.why
            in_force = "its last rules" if self.generation else "none of its rules"
            _LOG.warning(
                "the control plane is away", server=self.server, code=code, why=self.why, in_force=in_force
            )

    def show(self, subscription: Subscription, problems: Sequence[Problem]) -> None:
        """Record the domains in force, and the problems of the others."""
        prefix = named(self.server, "")
        self.digest = subscription.digest.hex()[:12]
        self.domains = len(subscription.held)
        self.refused = len({problem.file for problem in problems})
        self.rejected = tuple([printable(str(problem).removeprefix(prefix)) for problem in problems])
        self.missing = tuple(map(printable, subscription.missing))

    def lines(self) -> Iterator[str]:
        """Return the lines for /rlconfig."""
        name = f"xds {self.server}"
        if self.connected:
            silent = ", and has sent nothing since" if self.answered_at < self.since else ""
            yield f"{name}: connected since {moment(self.since)}{silent}"
        else:
            yield f"{name}: not connected since {moment(self.since)}{f': {self.why}' if self.why else ''}"
        if self.generation:
            yield (
                f"  in force: generation {self.generation}, hash {self.digest}, domains {self.domains}, "
                f"version {self.version or 'unknown'}, accepted {moment(self.accepted_at)}"
            )
        else:
            yield "  in force: nothing has been accepted yet"
        if self.stale_since:
            yield f"  stale since {moment(self.stale_since)}: these are the last rules that it sent"
        for problem in self.rejected:
            yield f"  rejected: {problem}"
        for domain in self.missing:
            yield f"  no longer sent, and about to end: {domain}"


def moment(seconds: float) -> str:
    """Return a time in the form 2026-11-28T06:45:00Z."""
    return rfc3339(seconds) if seconds else "the start"
