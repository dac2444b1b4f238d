"""How a control plane stands: what metrics, /rlconfig and the log say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from ...core.errors import Problem
from ...core.text import printable
from .reading import named
from .subscription import Subscription

_LOG = structlog.get_logger(__name__)


@dataclass(slots=True)
class Standing:
    """The state of one control plane. Times are seconds since 1970; 0 is never."""

    server: str
    connected: bool = False
    since: float = 0.0
    """When `connected` became what it is."""
    why: str = ""
    """Why it is not connected."""
    generation: int = 0
    """How many different sets have been in force."""
    version: str = ""
    digest: str = ""
    accepted_at: float = 0.0
    """When the set in force was taken."""
    answered_at: float = 0.0
    """When the control plane has sent something last."""
    stale_since: float = 0.0
    """Since when the rules in force may be old, because the control plane is away; 0 where they are not."""
    domains: int = 0
    refused: int = 0
    """Domains whose last rules are not in force."""
    rejected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    response_bytes: int = 0
    responses: Counter[str] = field(default_factory=Counter)
    """Sets by what became of them: accepted, unchanged, rejected (as a whole or in part)."""
    ends: Counter[str] = field(default_factory=Counter)
    """Calls that have ended, and attempts to connect that have failed, by the status of gRPC."""

    _said: str = ""
    """Why it is not connected, as the log has it."""

    def here(self, now: float) -> None:
        """There is a call."""
        self.connected, self.since, self.why, self._said = True, now, "", ""
        _LOG.info("the control plane is connected", server=self.server)

    def away(self, now: float, code: str, why: str) -> None:
        """There is none; the log says so once for each reason."""
        self.ends[code] += 1
        if self.connected or not self.since:
            self.connected, self.since = False, now
        if self.generation and not self.stale_since:
            self.stale_since = now
        self.why = printable(why)
        if self.why != self._said:
            self._said = self.why
            in_force = "the last rules that it sent" if self.generation else "none of its rules"
            _LOG.warning(
                "the control plane is away", server=self.server, code=code, why=self.why, in_force=in_force
            )

    def show(self, subscription: Subscription, problems: Sequence[Problem]) -> None:
        """Show what is in force, and what is wrong with the rest."""
        prefix = named(self.server, "")
        self.digest = subscription.digest.hex()[:12]
        self.domains = len(subscription.held)
        self.refused = len({problem.file for problem in problems})
        self.rejected = tuple([printable(str(problem).removeprefix(prefix)) for problem in problems])
        self.missing = tuple(map(printable, subscription.missing))

    def lines(self) -> Iterator[str]:
        """What people are told."""
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
    """A time as people and machines read it: 2026-11-28T06:45:00Z."""
    if not seconds:
        return "the start"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
