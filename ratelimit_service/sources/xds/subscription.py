"""The state of one control plane: its sets, the domains in force, and the next answer. No I/O.

- Domains are independent: correct domains come into force, and each of the others keeps its last good rules.
- The content of a set identifies it, not its version, because control planes count from 1 after each start.
- The rules of a missing domain stay in force for a grace period, because a control plane that has just
  started sends partial sets.
- Control planes send a rejected set again at once. So the rejection of the same content is delayed, by at
  most 10 s: these control planes send no other set until they have the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...core.errors import Problem
from ...core.text import fit, printable
from ...proto.xds_pb2 import DiscoveryRequest, Node, Status
from .response import TYPE_URL, Group, OpenedResponse, copied
from .server import Server

PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
"""The delay of the first rejection of a content, of the second, and so on, in seconds."""

_MOST_FILES = 8
"""Messages that groups keep open."""

_OVERHEAD, _SLACK = 4, 1 << 20
"""The bytes of these messages: so many for each byte of a group, and some more."""

_DIGEST = 32
"""The bytes of a hash."""

_SUMS = 1 << 8 * _DIGEST
_INVALID_ARGUMENT = 3
_LONGEST_REJECTION = 4_096
_LONGEST_TYPE = 200


class Refusal(NamedTuple):
    """A group that is not in force, and why."""

    group: Group
    problems: tuple[Problem, ...]


class Answer(NamedTuple):
    """The next request, and the seconds until it is sent."""

    request: bytes
    pause: float
    rejects: bool


class Subscription:
    """The state of one control plane. `now` is the time of a monotonic clock."""

    def __init__(self, server: Server, version: str, grace: float) -> None:
        self._server = server
        self._user_agent = version
        self._grace = grace
        self.held: dict[str, Group] = {}
        """The groups in force, by domain. Only `_hold` and `drop` change its content."""
        self._sum = 0
        self.refused: dict[str, Refusal] = {}
        self.missing: dict[str, float] = {}
        """Domains in force that are missing from the last set, and since when."""
        self.version = ""
        """The version of the last accepted set of this stream."""
        self._rejected = b""
        self._rejections = 0

    @property
    def digest(self) -> bytes:
        """Return the hash of the content in force.

        It is the sum of the hashes of the groups: it is compared after every step, and there may be thousands
        of groups.
        """
        return self._sum.to_bytes(_DIGEST, "big") if self.held else b""

    @property
    def problems(self) -> list[Problem]:
        """Return the problems of the rejected domains."""
        return [problem for refusal in self.refused.values() for problem in refusal.problems]

    def begin(self) -> bytes:
        """Return the first request of a stream.

        Its version differs from all versions of a control plane, so that the control plane always sends its
        set. Some control planes do not answer their own version, although it may be another set since their
        restart. Others do not answer an empty version while their set is empty.
        """
        self.version = ""
        self.missing.clear()
        return self._request(f"held {self.digest.hex()[:16]}" if self.held else "", "")

    def wanted(self, received: OpenedResponse) -> list[Group]:
        """Return the groups that must be read: neither in force nor known to be wrong."""
        return [group for group in received.groups.values() if not self._known(group)]

    def everything(self) -> list[Group]:
        """Return the last groups of all domains, to be read again with other overlays."""
        latest = self.held | {domain: refusal.group for domain, refusal in self.refused.items()}
        return list(latest.values())

    def miss(self, received: OpenedResponse, now: float) -> list[str]:
        """Record the domains that are missing from a set. Return those that were not missing before."""
        for domain in received.groups:
            self.missing.pop(domain, None)
        new = [domain for domain in self.held if domain not in received.groups and domain not in self.missing]
        self.missing |= dict.fromkeys(new, now)
        return new

    def gone(self, now: float) -> frozenset[str]:
        """Return the domains whose grace period is over."""
        return frozenset([domain for domain, since in self.missing.items() if now >= since + self._grace])

    def next_end(self) -> float | None:
        """Return the end of the next grace period."""
        return min(self.missing.values()) + self._grace if self.missing else None

    def drop(self, domains: Iterable[str]) -> None:
        """Record that the rules of these domains are no longer in force."""
        for domain in domains:
            if (held := self.held.pop(domain, None)) is not None:
                self._sum = (self._sum - _number(held)) % _SUMS
            self.missing.pop(domain, None)

    def take(
        self, groups: Sequence[Group], accepted: frozenset[str], problems: Mapping[str, tuple[Problem, ...]]
    ) -> bool:
        """Record the outcome for groups that were read. Return whether the content in force has changed."""
        before = self.digest
        for group in groups:
            self.refused.pop(group.domain, None)
            if group.domain in accepted:
                self._hold(group)
            elif group.domain in problems:
                self.refused[group.domain] = Refusal(group, problems[group.domain])
        return before != self.digest

    def settle(self, received: OpenedResponse, hidden: Sequence[Problem]) -> Answer:
        """Return the answer to a set. `hidden` has its domains that are in force from another source."""
        for domain in [domain for domain in self.refused if domain not in received.groups]:
            del self.refused[domain]
        problems = [*self.problems, *hidden]
        if not problems:
            self._rejected, self._rejections = b"", 0
            self.version = received.version
            return Answer(self._request(received.version, received.nonce), 0.0, rejects=False)
        return self._reject(received.digest, received.nonce, rejection(problems, self._server.name))

    def compact(self) -> None:
        """Copy the groups to one file if they keep many messages open, or messages that are much larger.

        Each of a thousand sets may have one domain, which stays in force for its grace period. Raises
        OSError.
        """
        refused = [refusal.group for refusal in self.refused.values()]
        groups = [*self.held.values(), *refused]
        resources = [each for group in groups for each in group.resources]
        sizes = {each.spool.fd: each.spool.size for each in resources}
        used = sum([each.length for each in resources])
        if len(sizes) <= _MOST_FILES and sum(sizes.values()) <= _OVERHEAD * used + _SLACK:
            return
        copies = copied(groups)
        for group in copies[: len(self.held)]:
            self.held[group.domain] = group
        for group in copies[len(copies) - len(refused) :]:
            self.refused[group.domain] = self.refused[group.domain]._replace(group=group)

    def foreign(self, received: OpenedResponse) -> Answer:
        """Return the answer to resources of another type."""
        shown = fit(received.type_url, _LONGEST_TYPE)
        return self._reject(
            received.digest, received.nonce, f"unexpected type {shown}: the subscription is to {TYPE_URL}"
        )

    def repeats(self, received: OpenedResponse) -> bool:
        """Return whether this content is the one that was rejected last."""
        return received.digest == self._rejected

    def reconsider(self) -> None:
        """Treat the content that was rejected last as new."""
        self._rejected = b""

    def _known(self, group: Group) -> bool:
        """Return whether a group need not be read.

        The group replaces its equal from an earlier message, so that the file of that message can be closed.
        """
        domain = group.domain
        held, refusal = self.held.get(domain), self.refused.get(domain)
        if held is not None and held.digest == group.digest:
            self.held[domain] = group
            self.refused.pop(domain, None)  # the correct rules are back
            return True
        if refusal is not None and refusal.group.digest == group.digest:
            self.refused[domain] = refusal._replace(group=group)
            return True
        return False

    def _hold(self, group: Group) -> None:
        before = self.held.get(group.domain)
        self._sum = (self._sum + _number(group) - (_number(before) if before is not None else 0)) % _SUMS
        self.held[group.domain] = group

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


def _number(group: Group) -> int:
    return int.from_bytes(group.digest, "big")


def rejection(problems: Sequence[Problem], server: str) -> str:
    """Return the text of a rejection: a line for each problem, up to the longest text."""
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
