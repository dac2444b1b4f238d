"""A load as a task that can be pickled, because another process may do it."""

from __future__ import annotations

from typing import NamedTuple

from ..core.errors import InvalidRules, Problem
from ..core.holds.entries import DEFAULT_ENTRIES, HoldEntries
from ..core.rules.digest import with_digest
from ..core.rules.document import Contents, Read
from ..core.rules.loaded import Loaded


class Task(NamedTuple):
    """A source, and the settings for reading its rules (MERGE_DOMAIN_CONFIG, BUDGET_DOMAINS, HOLD_ENTRY).

    With `apart`, the rules of a domain are valid by themselves, whatever is wrong with others. `files` are
    the file descriptors of open files that `read` reads. With `several`, other tasks read other domains.
    """

    read: Read
    merge_domains: bool = False
    budget_domains: frozenset[str] = frozenset()
    apart: bool = False
    files: tuple[int, ...] = ()
    several: bool = False
    hold_entries: HoldEntries = DEFAULT_ENTRIES

    def rules(self) -> Loaded:
        """Read and check the rules. Unless `apart`, raises InvalidRules with all problems."""
        # The service only passes tasks to another process, and needs no reader of rules.
        from ..core.rules.reader import load

        documents, problems, warnings = self.read()
        if self.apart:
            from ..core.rules.per_domain import load_per_domain

            loaded = load_per_domain(
                documents, problems, merge_domains=self.merge_domains, budget_domains=self.budget_domains
            )
            return _hashed(loaded._replace(warnings=(*warnings, *self._warnings(loaded))))
        try:
            loaded = load(
                documents,
                merge_domains=self.merge_domains,
                budget_domains=self.budget_domains,
                several=self.several,
            )
        except InvalidRules as error:
            raise InvalidRules((*problems, *error.problems), (*warnings, *error.warnings)) from None
        warnings = (*warnings, *self._warnings(loaded))
        if problems:
            raise InvalidRules(problems, warnings)
        return _hashed(loaded._replace(warnings=warnings))

    def _warnings(self, loaded: Loaded) -> list[Problem]:
        from ..core.rules.removed_entries import warn_of_removed_entries

        return [*loaded.warnings, *warn_of_removed_entries(loaded.domains, self.hold_entries)]


def _hashed(loaded: Loaded) -> Loaded:
    return loaded._replace(domains=tuple(map(with_digest, loaded.domains)))


def load_rules(contents: Contents, *, merge_domains: bool) -> Loaded:
    """Return the rules in what a source has read. Raises InvalidRules with all problems."""
    return Task(lambda: contents, merge_domains).rules()
