"""Loading rules and putting them in force; a load that fails leaves those in force that were."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from ..core.errors import InvalidRules, Problem
from ..core.matching.tree import Domain, RuleTree
from ..core.model import DomainRules
from ..core.planner import Planner
from ..core.rules.document import Document
from ..core.rules.reader import Loaded
from ..ports import Read, RuleChange, Taken
from ..runtime import garbage
from ..runtime.threads import StuckError, Thread
from ..service import RateLimitService
from .combined import Combined
from .process import STANDS_STILL, read_elsewhere
from .slices import Pace, at_once, in_slices
from .task import Task


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
    rules = Task(lambda: (documents, problems, warnings), merge_domains, budget_domains).rules()
    return Compiled(RuleTree(rules.domains), rules.warnings, rules.domains)


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

    def config_rejected(self, rejected: bool) -> None:
        """Whether something that was read last is refused still, though other rules have come into force."""
        ...


FILES = "files"
"""The source that `Rulebook.load` reads."""


class _Outcome(NamedTuple):
    """What was read; and with it, where that changes what is in force: the rules of all sources, ready for look-ups."""

    rules: Loaded
    combined: Combined | None
    tree: RuleTree


_Merge = Callable[[Loaded], Combined | None]


class Rulebook:
    """Reads documents, and gives the services the rules in them.

    They are read by another process, because calls would wait for a thread again and again, and because what reading takes of
    memory goes with it. What is left to do here is done in slices: taking the rules over, and letting go of those before. Between
    the two they change at one stroke. The first ones are waited for, and so it hurries. (`read` is pickled for that.)

    Rules are so many objects that the garbage collector would stop everybody for tenths of a second to look at them. There are
    no cycles in them, so it does not: it is off while they are made, and leaves them alone afterwards.

    There may be several `sources`; where two have the same domain, it is that of the first.
    """

    def __init__(
        self,
        services: Sequence[RateLimitService],
        read: Read,
        observer: LoadObserver,
        *,
        merge_domains: bool,
        budget_domains: frozenset[str] = frozenset(),
        sources: Sequence[str] = (FILES,),
    ) -> None:
        self._services = services
        self._task = Task(read, merge_domains, budget_domains, several=len(sources) > 1)
        self._observer = observer
        self._log = structlog.get_logger(__name__)
        self._loading = asyncio.Lock()
        self._wrong: dict[str, Sequence[Problem]] = {}
        self.combined = Combined({source: {} for source in sources})
        """What each source has."""
        self.again = False
        """Whether the last load may go well another time, though no file changes."""
        self._thread = Thread("reading the rules")

    @property
    def problems(self) -> Sequence[Problem]:
        """What was wrong with the last load of the files; empty where it went well."""
        return self._wrong.get(FILES, ())

    @property
    def domains(self) -> Sequence[DomainRules]:
        """The rules in force, as they were written."""
        return self.combined.domains

    @property
    def _tree(self) -> RuleTree | None:
        """The rules in force: those of each service."""
        return self._services[0].tree

    async def load(self) -> bool:
        """Load the files once; whether new rules are in force. What is wrong is logged, counted and kept in `problems`."""

        def merge(rules: Loaded) -> Combined:
            return self.combined.with_(FILES, {domain.name: domain for domain in rules.domains})

        async with self._loading:
            try:
                outcome = await self._read(self._task, merge)
            except InvalidRules as error:
                self.again = error.again
                await self._failed(FILES, error.problems)
                return False
            self.again = False
            self._wrong.pop(FILES, None)
            return await self._use(outcome)

    async def change(self, source: str, change: RuleChange) -> Taken:
        """Put what a source has changed in force, as far as nothing is wrong with it. What is wrong is logged and counted."""
        read = change.read or _nothing
        task = self._task._replace(read=read, files=change.files, apart=True)

        def merge(rules: Loaded) -> Combined | None:
            before = self.combined.of(source)
            found = {domain.name: domain for domain in rules.domains if domain.name in change.domains}
            gone = change.gone.intersection(before)
            first = self._tree is None and not rules.problems
            if (change.whole and rules.problems) or not (found or gone or first):
                return None
            return self.combined.with_(
                source, {name: rules for name, rules in before.items() if name not in gone} | found
            )

        async with self._loading:
            try:
                outcome = await self._read(task if change.read else None, merge)
            except InvalidRules as error:
                await self._failed(source, error.problems)
                return Taken(problems=tuple(error.problems), again=error.again)
            changed = await self._use(outcome)
            if outcome.rules.problems:
                await self._failed(source, outcome.rules.problems, "the last good rules of these domains")
        accepted = {domain.name for domain in outcome.rules.domains} if changed else set()
        return Taken(change.domains.intersection(accepted), tuple(outcome.rules.problems), changed=changed)

    def blame(self, source: str, problems: Sequence[Problem]) -> None:
        """Say what is wrong with what a source wants, whenever that changes without a load."""
        self._wrong[source] = problems
        self._observer.config_rejected(any(self._wrong.values()))

    async def _failed(
        self, source: str, problems: Sequence[Problem], in_force: str = "the rules before"
    ) -> None:
        self._wrong[source] = problems
        self._observer.config_failed()
        await in_slices(self._refuse(problems, in_force))

    async def _use(self, outcome: _Outcome) -> bool:
        """Warn of what was noticed, and put the rules in force; whether there are any that were not before."""
        await in_slices(self._warn(outcome.rules.warnings))
        if outcome.combined is None:
            return False
        tree, before = outcome.tree, self.combined
        released = [
            _Before(
                self._tree,
                before.domains,
                [service.use(tree) for service in self._services],
                frozenset(map(id, outcome.combined.domains)),
            ),
        ]
        self.combined = outcome.combined
        del before, outcome
        self._observer.config_loaded(tree, time.time())
        if any(self._wrong.values()):
            self._observer.config_rejected(True)
        self._log.info("configuration loaded", domains=len(tree.domains), rules=len(tree.rules))
        await in_slices(self._observer.config_replaced())
        await in_slices(_letting_go(released))
        return True

    async def _read(self, task: Task | None, merge: _Merge) -> _Outcome:
        """Read rules, and compile what is in force with them. Raises InvalidRules."""
        try:
            with garbage.paused_for_loading():
                return await self._outcome(task, merge)
        except InvalidRules:
            raise
        except Exception as error:  # out of descriptors, threads or memory, or a mistake of ours
            self._log.error("the rules cannot be loaded", exc_info=error)
            text = f"could not be loaded: {type(error).__name__}: {error}. It is read again soon"
            raise InvalidRules([Problem("configuration", 0, "", text)], again=True) from None

    async def _outcome(self, task: Task | None, merge: _Merge) -> _Outcome:
        hurry = self._tree is None
        pace = Pace(0) if hurry else Pace()
        rules = Loaded((), ()) if task is None else await read_elsewhere(task, hurry=hurry)
        if rules is None:
            assert task is not None
            try:
                return await self._thread.do(partial(self._outcome_here, task, merge), STANDS_STILL)
            except StuckError as error:
                problem = Problem(error.doing, 0, "", f"could not be read: {error}. It is read again soon")
                raise InvalidRules([problem], again=True) from None
        combined = merge(rules)
        if combined is None:
            return _Outcome(rules, None, _NO_RULES)
        tree = await in_slices(RuleTree.in_steps(combined.domains, self._compiled(combined)), pace)
        await in_slices(self._observer.config_read(tree), pace)
        return _Outcome(rules, combined, tree)

    def _outcome_here(self, task: Task, merge: _Merge) -> _Outcome:
        rules = task.rules()
        combined = merge(rules)
        if combined is None:
            return _Outcome(rules, None, _NO_RULES)
        tree = RuleTree(combined.domains)
        at_once(self._observer.config_read(tree))
        return _Outcome(rules, combined, tree)

    def _compiled(self, combined: Combined) -> dict[str, Domain]:
        """The domains in force that stay as they are."""
        tree = self._tree
        if tree is None:
            return {}
        same = set(map(id, combined.domains)).intersection(map(id, self.combined.domains))
        return {each.name: tree.domains[each.name] for each in combined.domains if id(each) in same}

    def _warn(self, warnings: Sequence[Problem]) -> Generator[None, None, None]:
        for warning in warnings:
            self._log.warning("configuration", problem=str(warning))
            yield

    def _refuse(self, problems: Sequence[Problem], in_force: str) -> Generator[None, None, None]:
        for problem in problems:
            self._log.error("configuration refused", problem=str(problem))
            yield
        self._log.error(
            "the configuration was not loaded",
            problems=len(problems),
            in_force=in_force if self._tree else "none",
        )


_NO_RULES = RuleTree()


def _nothing() -> tuple[Sequence[Document], Sequence[Problem], Sequence[Problem]]:
    return (), (), ()


class _Before(NamedTuple):
    """Rules that were in force, and who has planned by them. `kept` has the identities of those that still are."""

    tree: RuleTree | None
    domains: Sequence[DomainRules]
    planners: Sequence[Planner] = ()
    kept: frozenset[int] = frozenset()


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
    released = [source for source in rules.domains if id(source) not in rules.kept]
    compiled = rules.tree.domains if rules.tree else {}
    for domain in [compiled[source.name] for source in released if source.name in compiled]:
        yield domain
        yield from domain.nodes()
    for source in released:
        yield source
        pending = list(source.descriptors)
        while pending:
            descriptor = pending.pop()
            yield descriptor
            pending += descriptor.children
            if descriptor.rule is not None:
                yield descriptor.rule
