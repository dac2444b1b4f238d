"""Sets of rules, and a rulebook for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ratelimit_service.core.errors import Problem
from ratelimit_service.core.model import DomainRules
from ratelimit_service.loading.task import Task
from ratelimit_service.ports import ChangeOutcome, RuleChange
from ratelimit_service.proto.xds_pb2 import DiscoveryResponse, RateLimitConfig, Resource
from ratelimit_service.sources.xds.response import TYPE_URL, OpenedResponse, open_response
from ratelimit_service.sources.xds.spool import Spool


def response(
    *configs: RateLimitConfig | Resource, version: str = "1", nonce: str = "n", type_url: str = TYPE_URL
) -> bytes:
    """Return a response with these resources."""
    resources = [
        each if isinstance(each, Resource) else Resource(type_url=TYPE_URL, value=each.SerializeToString())
        for each in configs
    ]
    message: bytes = DiscoveryResponse(
        version_info=version, nonce=nonce, type_url=type_url, resources=resources
    ).SerializeToString()
    return message


def spooled(data: bytes) -> Spool:
    """Return a message that has arrived."""
    spool = Spool()
    spool.write(data)
    return spool


def received(
    *configs: RateLimitConfig | Resource, version: str = "1", nonce: str = "n", type_url: str = TYPE_URL
) -> OpenedResponse:
    """Return a response that was opened."""
    return open_response(spooled(response(*configs, version=version, nonce=nonce, type_url=type_url)))


class Book:
    """A rulebook that takes changes as loading/rulebook.py does, in this process.

    `wanted` has every requested change.
    """

    def __init__(self, *, merge_domains: bool = False) -> None:
        self.domains: dict[str, DomainRules] = {}
        self.wanted: list[RuleChange] = []
        self.blamed: list[Sequence[Problem]] = []
        self.elsewhere: dict[str, Problem] = {}
        self.again = False
        self._merge_domains = merge_domains

    async def change(self, change: RuleChange) -> ChangeOutcome:
        self.wanted.append(change)
        if self.again:
            return ChangeOutcome(problems=(Problem("configuration", 0, "", "out of memory"),), again=True)
        if change.read is None:
            return self._use({}, change, ())
        rules = Task(change.read, self._merge_domains, apart=True, files=change.files).rules()
        if change.whole and rules.problems:
            return ChangeOutcome(problems=rules.problems)
        return self._use({domain.name: domain for domain in rules.domains}, change, rules.problems)

    def _use(
        self, read: dict[str, DomainRules], change: RuleChange, problems: tuple[Problem, ...]
    ) -> ChangeOutcome:
        gone = change.gone.intersection(self.domains)
        self.domains = {name: each for name, each in self.domains.items() if name not in gone} | read
        return ChangeOutcome(frozenset(read), problems, changed=bool(read or gone))

    def hidden(self) -> Mapping[str, Problem]:
        return {name: problem for name, problem in self.elsewhere.items() if name in self.domains}

    def blame(self, problems: Sequence[Problem]) -> None:
        self.blamed.append(tuple(problems))

    def amounts(self) -> dict[str, list[int]]:
        """Return the limits of the outermost descriptors, by domain."""
        return {
            name: [limit.amount for each in domain.descriptors if each.rule for limit in each.rule.limits]
            for name, domain in self.domains.items()
        }
