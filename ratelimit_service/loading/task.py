"""What there is to load. It can be pickled, because another process may be told to do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..core.errors import InvalidRules, Problem
from ..core.rules.document import Document
from ..core.rules.reader import Loaded, load

Read = Callable[[], tuple[Sequence[Document], Sequence[Problem], Sequence[Problem]]]
"""Returns what there is to load, what was wrong with what is therefore missing from it, and warnings."""


class Task(NamedTuple):
    """Where rules come from, and what is to be made of them (MERGE_DOMAIN_CONFIG, BUDGET_DOMAINS)."""

    read: Read
    merge_domains: bool = False
    budget_domains: frozenset[str] = frozenset()

    def rules(self) -> Loaded:
        """Read, parse and check them. Raises InvalidRules with all that is wrong, with what is missing first."""
        documents, problems, noticed = self.read()
        try:
            loaded = load(documents, merge_domains=self.merge_domains, budget_domains=self.budget_domains)
        except InvalidRules as error:
            raise InvalidRules((*problems, *error.problems), (*noticed, *error.warnings)) from None
        warnings = (*noticed, *loaded.warnings)
        if problems:
            raise InvalidRules(problems, warnings)
        return loaded._replace(warnings=warnings)
