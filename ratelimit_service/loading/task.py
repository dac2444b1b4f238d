"""What there is to load. It can be pickled, because another process may be told to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..core.errors import InvalidRules
from ..core.rules.apart import load_apart
from ..core.rules.reader import Loaded, load

if TYPE_CHECKING:  # which the process that reads rules need not import
    from ..ports import Read


class Task(NamedTuple):
    """Where rules come from, and what is to be made of them (MERGE_DOMAIN_CONFIG, BUDGET_DOMAINS).

    `apart`: the rules of a domain hold by themselves, whatever is wrong with others. `files` are the descriptors of open files
    that `read` reads. `several`: other domains are read by other tasks.
    """

    read: Read
    merge_domains: bool = False
    budget_domains: frozenset[str] = frozenset()
    apart: bool = False
    files: tuple[int, ...] = ()
    several: bool = False

    def rules(self) -> Loaded:
        """Read, parse and check them. Raises InvalidRules with all that is wrong, with what is missing first; not `apart`."""
        documents, problems, noticed = self.read()
        if self.apart:
            loaded = load_apart(
                documents, problems, merge_domains=self.merge_domains, budget_domains=self.budget_domains
            )
            return loaded._replace(warnings=(*noticed, *loaded.warnings))
        try:
            loaded = load(
                documents,
                merge_domains=self.merge_domains,
                budget_domains=self.budget_domains,
                several=self.several,
            )
        except InvalidRules as error:
            raise InvalidRules((*problems, *error.problems), (*noticed, *error.warnings)) from None
        warnings = (*noticed, *loaded.warnings)
        if problems:
            raise InvalidRules(problems, warnings)
        return loaded._replace(warnings=warnings)
