"""The rules of several sources. For each domain, the rules of the first source that has it are in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Self

from ..core.errors import Problem
from ..core.model import DomainRules
from ..core.rules.digest import digest_of
from ..core.text import printable


class CombinedRules:
    """The rules of each source, by domain. Earlier sources take precedence."""

    def __init__(self, rules: Mapping[str, Mapping[str, DomainRules]]) -> None:
        self._rules = rules

    def of(self, source: str) -> Mapping[str, DomainRules]:
        """Return the rules of a source, in force or not."""
        return self._rules[source]

    def with_(self, source: str, domains: Mapping[str, DomainRules]) -> Self:
        """Return a copy with other rules of one source."""
        return type(self)({**self._rules, source: domains})

    @cached_property
    def domains(self) -> Sequence[DomainRules]:
        """The rules in force."""
        return tuple(self._in_force.values())

    @cached_property
    def digest(self) -> str:
        """A hash of the rules in force, equal on all replicas that have the same."""
        return digest_of(self.domains)

    @cached_property
    def _in_force(self) -> Mapping[str, DomainRules]:
        found: dict[str, DomainRules] = {}
        for domains in self._rules.values():
            for name, domain in domains.items():
                found.setdefault(name, domain)
        return found

    def hidden(self, source: str) -> dict[str, Problem]:
        """Return the domains of a source that are in force from another source, each with a problem."""
        return {
            name: Problem(
                domain.source.removesuffix(": domain"),
                0,
                "domain",
                f"'{printable(name)}' has rules at {self._in_force[name].source}, which take precedence: "
                "use another domain",
            )
            for name, domain in self._rules[source].items()
            if self._in_force[name] is not domain
        }
