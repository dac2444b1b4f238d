"""Loading rules and putting them in force; a load that fails leaves those in force that were."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import structlog

from .core.document import Document
from .core.errors import InvalidRules, Problem
from .core.matcher import RuleTree
from .core.model import DomainRules
from .core.rules import load
from .service import RateLimitService

Read = Callable[[], tuple[Sequence[Document], Sequence[Problem]]]
"""What there is to load, and what was wrong with what is therefore missing from it."""


class Compiled(NamedTuple):
    """The rules of documents, ready for look-ups; the warnings about them; and the rules as they were written."""

    tree: RuleTree
    warnings: Sequence[Problem]
    domains: Sequence[DomainRules]


def compile_rules(
    documents: Sequence[Document],
    problems: Sequence[Problem],
    *,
    merge_domains: bool,
    budget_domains: frozenset[str] = frozenset(),
) -> Compiled:
    """The rules of `documents`, and the warnings about them.

    Raises InvalidRules where anything is wrong with them, or `problems` says that some are missing; with all of it.
    """
    try:
        domains, warnings = load(documents, merge_domains=merge_domains, budget_domains=budget_domains)
    except InvalidRules as error:
        raise InvalidRules((*problems, *error.problems), error.warnings) from None
    if problems:
        raise InvalidRules(problems, warnings)
    return Compiled(RuleTree(domains), warnings, domains)


class LoadObserver(Protocol):
    """Told of every load."""

    def config_read(self, tree: RuleTree) -> None:
        """These rules are about to come into force. Called in the thread that has read them, where it may take its time."""
        ...

    def config_loaded(self, tree: RuleTree, now: float) -> None:
        """Rules came into force at `now`, seconds since 1970."""
        ...

    def config_failed(self) -> None:
        """A load failed; the rules in force stay."""
        ...


class Rulebook:
    """Reads documents, and gives the service the rules in them.

    Reading and compiling are done in a thread, so that nobody waits for them; the rules then change at one stroke. Rules
    are so many objects that the garbage collector would stop everybody for tenths of a second to look at them. There are no
    cycles in them, so it does not: it is off while they are made, and leaves them alone afterwards.
    """

    def __init__(
        self,
        service: RateLimitService,
        read: Read,
        observer: LoadObserver,
        *,
        merge_domains: bool,
        budget_domains: frozenset[str] = frozenset(),
    ) -> None:
        self._service = service
        self._read = read
        self._observer = observer
        self._merge_domains = merge_domains
        self._budget_domains = budget_domains
        self._log = structlog.get_logger(__name__)
        self.problems: Sequence[Problem] = ()
        """What was wrong with the last load; empty where it went well."""
        self.domains: Sequence[DomainRules] = ()
        """The rules in force, as they were written."""

    async def load(self) -> bool:
        """Load once; whether new rules are in force. What is wrong is logged, counted and kept in `problems`."""
        try:
            gc.disable()
            try:
                tree, warnings, domains = await asyncio.to_thread(self._compile)
            finally:
                gc.freeze()
                gc.enable()
        except InvalidRules as error:
            self.problems = error.problems
            self._observer.config_failed()
            for problem in error.problems:
                self._log.error("configuration refused", problem=str(problem))
            self._log.error(
                "the configuration was not loaded",
                problems=len(error.problems),
                in_force="the rules before" if self._service.tree else "none",
            )
            return False
        self.problems = ()
        for warning in warnings:
            self._log.warning("configuration", problem=str(warning))
        self._service.use(tree)
        self.domains = domains
        self._observer.config_loaded(tree, time.time())
        self._log.info("configuration loaded", domains=len(tree.domains), rules=len(tree.rules))
        return True

    def _compile(self) -> Compiled:
        documents, problems = self._read()
        compiled = compile_rules(
            documents, problems, merge_domains=self._merge_domains, budget_domains=self._budget_domains
        )
        self._observer.config_read(compiled.tree)
        return compiled
