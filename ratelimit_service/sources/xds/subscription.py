"""What one control plane has sent, what of it holds, and what it is answered. Decides, and does nothing.

- A domain holds by itself: those with which nothing is wrong are taken, and each of the others keeps its last good rules.
- The content decides, never its version: control planes count from 1 again when they start.
- A domain that a set does not have any more holds for a time of grace: a control plane that has just started sends what it
  knows so far.
- The servers send a rejected set again as soon as it is rejected, so a rejection of the same content is held back for a while.
  No longer than 10 s: until it is answered, these servers cannot send another set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...core.errors import Problem
from ...core.text import printable
from ...proto.xds_pb2 import DiscoveryRequest, Node, Status
from .received import TYPE_URL, Group, Received, digest_of
from .server import Server

PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Seconds for which the first rejection of a content is held back, the second, and so on; the last for all others."""

_INVALID_ARGUMENT = 3
_LONGEST_REJECTION = 4_096


class Refusal(NamedTuple):
    """A domain of which the last group is not in force, and why."""

    group: Group
    problems: tuple[Problem, ...]


class Answer(NamedTuple):
    """What the control plane is to be sent, and in how many seconds."""

    request: bytes
    pause: float
    rejects: bool


class Subscription:
    """The state of one control plane. `now` is seconds on a clock that is never set."""

    def __init__(self, server: Server, version: str, grace: float) -> None:
        self._server = server
        self._user_agent = version
        self._grace = grace
        self.held: dict[str, Group] = {}
        """What is in force, by domain."""
        self.refused: dict[str, Refusal] = {}
        self.missing: dict[str, float] = {}
        """Domains that are in force and were not in the last set, and since when."""
        self.version = ""
        """That of the last set that was taken as a whole, on this stream."""
        self._rejected = b""
        self._rejections = 0

    @property
    def digest(self) -> bytes:
        """What tells the content in force from another."""
        return digest_of(self.held)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with domains whose last rules are not in force."""
        return [problem for refusal in self.refused.values() for problem in refusal.problems]

    def begin(self) -> bytes:
        """The first request of a stream.

        Its version is none that a control plane has given, so that each of them sends its set: some stay silent where it is
        theirs, although it stands for something else since they were started again; and some where it is empty, and so is
        their set.
        """
        self.version = ""
        self.missing.clear()
        return self._request(f"held {self.digest.hex()[:16]}" if self.held else "", "")

    def wanted(self, received: Received) -> list[Group]:
        """The groups of a set that have to be read: neither in force nor refused already."""
        return [group for group in received.groups.values() if not self._known(group)]

    def everything(self) -> list[Group]:
        """All groups that were sent last, for when what lies over them has changed."""
        latest = self.held | {domain: refusal.group for domain, refusal in self.refused.items()}
        return list(latest.values())

    def miss(self, received: Received, now: float) -> list[str]:
        """Note which domains are not in a set. Returns those of which that is new."""
        for domain in received.groups:
            self.missing.pop(domain, None)
        new = [domain for domain in self.held if domain not in received.groups and domain not in self.missing]
        self.missing |= dict.fromkeys(new, now)
        return new

    def gone(self, now: float) -> frozenset[str]:
        """The domains whose time of grace is over."""
        return frozenset([domain for domain, since in self.missing.items() if now >= since + self._grace])

    def next_end(self) -> float | None:
        """When the next time of grace is over."""
        return min(self.missing.values()) + self._grace if self.missing else None

    def drop(self, domains: Iterable[str]) -> None:
        """These are not in force any more."""
        for domain in domains:
            self.held.pop(domain, None)
            self.missing.pop(domain, None)

    def take(
        self, groups: Sequence[Group], accepted: frozenset[str], problems: Mapping[str, tuple[Problem, ...]]
    ) -> bool:
        """Note what became of groups that were read; whether something else is in force."""
        before = self.digest
        for group in groups:
            self.refused.pop(group.domain, None)
            if group.domain in accepted:
                self.held[group.domain] = group
            elif group.domain in problems:
                self.refused[group.domain] = Refusal(group, problems[group.domain])
        return before != self.digest

    def settle(self, received: Received, hidden: Sequence[Problem]) -> Answer:
        """The answer to a set whose groups were read. `hidden` says which of its domains are in force from elsewhere."""
        for domain in [domain for domain in self.refused if domain not in received.groups]:
            del self.refused[domain]
        problems = [*self.problems, *hidden]
        if not problems:
            self._rejected, self._rejections = b"", 0
            self.version = received.version
            return Answer(self._request(received.version, received.nonce), 0.0, rejects=False)
        return self._reject(received.digest, received.nonce, rejection(problems, self._server.name))

    def foreign(self, received: Received) -> Answer:
        """The answer to something that was not asked for."""
        shown = printable(received.type_url)
        return self._reject(
            received.digest, received.nonce, f"the type {shown} was not asked for: only {TYPE_URL} was"
        )

    def repeats(self, received: Received) -> bool:
        """Whether this content was rejected last."""
        return received.digest == self._rejected

    def reconsider(self) -> None:
        """Judge the content that was rejected last as if it were new."""
        self._rejected = b""

    def _known(self, group: Group) -> bool:
        """Whether it need not be read. Refers to it in place of its equal from before, whose message can go then."""
        domain = group.domain
        held, refusal = self.held.get(domain), self.refused.get(domain)
        if held is not None and held.digest == group.digest:
            self.held[domain] = group
            self.refused.pop(domain, None)  # what was wrong is as it was before
            return True
        if refusal is not None and refusal.group.digest == group.digest:
            self.refused[domain] = refusal._replace(group=group)
            return True
        return False

    def _reject(self, digest: bytes, nonce: str, why: str) -> Answer:
        self._rejections = self._rejections + 1 if digest == self._rejected else 0
        self._rejected = digest
        pause = PAUSES[min(self._rejections, len(PAUSES) - 1)]
        return Answer(self._request(self.version, nonce, why), pause, rejects=True)

    def _request(self, version: str, nonce: str, error: str = "") -> bytes:
        node = Node(
            id=self._server.node_id,
            user_agent_name="ratelimit-service",
            user_agent_version=self._user_agent,
        )
        node.metadata.update(dict(self._server.node_metadata))
        request = DiscoveryRequest(version_info=version, node=node, type_url=TYPE_URL, response_nonce=nonce)
        if error:
            request.error_detail.CopyFrom(Status(code=_INVALID_ARGUMENT, message=error))
        message: bytes = request.SerializeToString()
        return message


def rejection(problems: Sequence[Problem], server: str) -> str:
    """What a control plane is told: a line for each problem, as many as there is room for."""
    lines: list[str] = []
    room = _LONGEST_REJECTION
    for place, problem in enumerate(problems):
        line = printable(str(problem).removeprefix(f"xds {server}: "))
        last = f"and {len(problems) - place} more" if place else line[: _LONGEST_REJECTION // 2]
        room -= len(line.encode()) + 1
        if room < len(last):
            lines.append(last)
            break
        lines.append(line)
    return "\n".join(lines)
