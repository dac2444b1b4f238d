"""Loading rules and putting them in force; a load that fails leaves those in force that were."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, Protocol

import structlog

from ..core.errors import InvalidRules, Problem
from ..core.matching.tree import RuleTree
from ..core.model import DomainRules
from ..core.planner import Planner
from ..core.rules.document import Document
from ..runtime.threads import StuckError, Thread
from ..service import RateLimitService
from .process import STANDS_STILL, read_elsewhere
from .slices import Pace, at_once, in_slices
from .task import Read, Task


class Compiled(NamedTuple):
    """The rules of documents, ready for look-ups; the warnings about them; and the rules as they were written."""

    tree: RuleTree
    warnings: Sequence[Problem]
    domains: Sequence[DomainRules]


def compile_rules(
    documents: Sequence[Document],
    problems: Sequence[Problem],
    warnings: Sequence[Problem] = (),
    *,
    merge_domains: bool,
    budget_domains: frozenset[str] = frozenset(),
) -> Compiled:
    """The rules of `documents`, and the warnings about them, behind those of reading them.

    Raises InvalidRules where anything is wrong with them, or `problems` says that some are missing; with all of it.
    """
    task = Task(lambda: (documents, problems, warnings), merge_domains, budget_domains)
    domains, noticed = task.rules()
    return Compiled(RuleTree(domains), noticed, domains)


class LoadObserver(Protocol):
    """Told of every load."""

    def config_read(self, tree: RuleTree) -> Generator[None, None, None]:
        """These rules are about to come into force. In steps of some microseconds, done in slices or in another thread."""
        ...

    def config_loaded(self, tree: RuleTree, now: float) -> None:
        """Rules came into force at `now`, seconds since 1970."""
        ...

    def config_replaced(self) -> Generator[None, None, None]:
        """Release what is kept of the rules before. In steps of some microseconds, done in slices."""
        ...

    def config_failed(self) -> None:
        """A load failed; the rules in force stay."""
        ...


class Rulebook:
    """Reads documents, and gives the services the rules in them.

    They are read by another process, because calls would wait for a thread again and again, and because what reading takes of
    memory goes with it. What is left to do here is done in slices: taking the rules over, and letting go of those before. Between
    the two they change at one stroke. The first ones are waited for, and so it hurries. (`read` is pickled for that.)

    Rules are so many objects that the garbage collector would stop everybody for tenths of a second to look at them. There are
    no cycles in them, so it does not: it is off while they are made, and leaves them alone afterwards.
    """

    def __init__(
        self,
        services: Sequence[RateLimitService],
        read: Read,
        observer: LoadObserver,
        *,
        merge_domains: bool,
        budget_domains: frozenset[str] = frozenset(),
    ) -> None:
        self._services = services
        self._task = Task(read, merge_domains, budget_domains)
        self._observer = observer
        self._log = structlog.get_logger(__name__)
        self.problems: Sequence[Problem] = ()
        """What was wrong with the last load; empty where it went well."""
        self.domains: Sequence[DomainRules] = ()
        """The rules in force, as they were written."""
        self.again = False
        """Whether the last load may go well another time, though no file changes."""
        self._thread = Thread("reading the rules")

    @property
    def _tree(self) -> RuleTree | None:
        """The rules in force: those of each service."""
        return self._services[0].tree

    async def load(self) -> bool:
        """Load once; whether new rules are in force. What is wrong is logged, counted and kept in `problems`."""
        try:
            gc.disable()
            try:
                tree, warnings, domains = await self._compiled()
            finally:
                gc.freeze()
                gc.enable()
        except InvalidRules as error:
            return await self._failed(error)
        except Exception as error:  # out of descriptors, threads or memory, or a mistake of ours
            self._log.error("the rules cannot be loaded", exc_info=error)
            text = f"could not be loaded: {type(error).__name__}: {error}. It is read again soon"
            return await self._failed(InvalidRules([Problem("configuration", 0, "", text)], again=True))
        self.problems = ()
        self.again = False
        await in_slices(self._warn(warnings))
        before = [
            _Before(self._tree, self.domains, [service.use(tree) for service in self._services]),
        ]
        self.domains = domains
        self._observer.config_loaded(tree, time.time())
        self._log.info("configuration loaded", domains=len(tree.domains), rules=len(tree.rules))
        await in_slices(self._observer.config_replaced())
        await in_slices(_letting_go(before))
        return True

    async def _failed(self, error: InvalidRules) -> bool:
        self.problems = error.problems
        self.again = error.again
        self._observer.config_failed()
        await in_slices(self._refuse(error.problems))
        return False

    async def _compiled(self) -> Compiled:
        hurry = self._tree is None
        pace = Pace(0) if hurry else Pace()
        rules = await read_elsewhere(self._task, hurry=hurry)
        if rules is None:
            try:
                return await self._thread.do(self._compiled_here, STANDS_STILL)
            except StuckError as error:
                problem = Problem(error.doing, 0, "", f"could not be read: {error}. It is read again soon")
                raise InvalidRules([problem], again=True) from None
        tree = await in_slices(RuleTree.in_steps(rules.domains), pace)
        await in_slices(self._observer.config_read(tree), pace)
        return Compiled(tree, rules.warnings, rules.domains)

    def _compiled_here(self) -> Compiled:
        domains, warnings = self._task.rules()
        tree = RuleTree(domains)
        at_once(self._observer.config_read(tree))
        return Compiled(tree, warnings, domains)

    def _warn(self, warnings: Sequence[Problem]) -> Generator[None, None, None]:
        for warning in warnings:
            self._log.warning("configuration", problem=str(warning))
            yield

    def _refuse(self, problems: Sequence[Problem]) -> Generator[None, None, None]:
        for problem in problems:
            self._log.error("configuration refused", problem=str(problem))
            yield
        self._log.error(
            "the configuration was not loaded",
            problems=len(problems),
            in_force="the rules before" if self._tree else "none",
        )


class _Before(NamedTuple):
    """Rules that were in force, and who has planned by them."""

    tree: RuleTree | None
    domains: Sequence[DomainRules]
    planners: Sequence[Planner] = ()


def _letting_go(rules: list[_Before]) -> Generator[None, None, None]:
    """Drop rules, of which this list is all that holds them: by themselves they would go in one call of many milliseconds.

    So something else holds each part of them first. What holds others goes before these do.
    """
    parts: deque[object] = deque()
    for part in _parts(rules[0]):
        parts.append(part)
        yield
    rules.clear()
    while parts:
        parts.popleft()
        yield


def _parts(rules: _Before) -> Iterator[object]:
    for planner in rules.planners:
        yield planner
        yield from planner.cached
    for domain in rules.tree.domains.values() if rules.tree else ():
        yield domain
        yield from domain.nodes()
    for source in rules.domains:
        yield source
        pending = list(source.descriptors)
        while pending:
            descriptor = pending.pop()
            yield descriptor
            pending += descriptor.children
            if descriptor.rule is not None:
                yield descriptor.rule
